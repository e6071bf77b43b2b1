"""Pure array functions for ONE image, without Flax; `jax.vmap` makes them batched."""

from jaxseg.ops.anchors import cell_anchors, grid_anchors
from jaxseg.ops.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    intersection_area,
)
from jaxseg.ops.masks import mask_targets, paste_masks
from jaxseg.ops.matching import Matches, match
from jaxseg.ops.nms import batched_nms, nms
from jaxseg.ops.roi_align import multilevel_roi_align, roi_align
from jaxseg.ops.sampling import Samples, priorities, sample_balanced

__all__ = [
    "Matches",
    "Samples",
    "batched_nms",
    "box_area",
    "box_iou",
    "cell_anchors",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "grid_anchors",
    "intersection_area",
    "mask_targets",
    "match",
    "multilevel_roi_align",
    "nms",
    "paste_masks",
    "priorities",
    "roi_align",
    "sample_balanced",
]
