"""Pure array functions for ONE image, without Flax; `jax.vmap` makes them batched."""

from jaxseg.ops.anchors import cell_anchors, grid_anchors
from jaxseg.ops.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    intersection_area,
    is_larger,
)
from jaxseg.ops.grid_targets import GridTargets, grid_targets
from jaxseg.ops.masks import bitmap_targets, mask_targets, paste_masks
from jaxseg.ops.matching import Matches, match
from jaxseg.ops.matrix_nms import matrix_nms, points_nms
from jaxseg.ops.nms import batched_nms, nms
from jaxseg.ops.roi_align import assign_levels, multilevel_roi_align, roi_align, roi_align_each
from jaxseg.ops.sampling import Samples, priorities, sample_balanced

__all__ = [
    "GridTargets",
    "Matches",
    "Samples",
    "assign_levels",
    "batched_nms",
    "bitmap_targets",
    "box_area",
    "box_iou",
    "cell_anchors",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "grid_anchors",
    "grid_targets",
    "intersection_area",
    "is_larger",
    "mask_targets",
    "match",
    "matrix_nms",
    "multilevel_roi_align",
    "nms",
    "paste_masks",
    "points_nms",
    "priorities",
    "roi_align",
    "roi_align_each",
    "sample_balanced",
]
