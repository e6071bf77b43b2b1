"""Pure array functions for one image, without Flax; `jax.vmap` batches them."""

from jaxseg.ops.anchors import anchor_cells, cell_anchors, grid_anchors
from jaxseg.ops.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    intersection_area,
    min_size_mask,
)
from jaxseg.ops.grid_targets import GridTargets, grid_targets
from jaxseg.ops.masks import bitmap_targets, boxes_from_masks, mask_targets, paste_masks
from jaxseg.ops.matching import Matches, match
from jaxseg.ops.matrix_nms import matrix_nms, points_nms
from jaxseg.ops.nms import batched_nms, nms
from jaxseg.ops.points import (
    crop_points,
    grid_points,
    indexed_point_sample,
    point_sample,
    points_in_boxes,
    points_in_image,
    roi_point_sample,
    uncertain_cells,
    uncertain_points,
)
from jaxseg.ops.roi_align import assign_levels, indexed_roi_align, multilevel_roi_align, roi_align
from jaxseg.ops.sampling import Samples, random_priority, sample_balanced

__all__ = [
    "GridTargets",
    "Matches",
    "Samples",
    "anchor_cells",
    "assign_levels",
    "batched_nms",
    "bitmap_targets",
    "box_area",
    "box_iou",
    "boxes_from_masks",
    "cell_anchors",
    "clip_boxes",
    "crop_points",
    "decode_boxes",
    "encode_boxes",
    "grid_anchors",
    "grid_points",
    "grid_targets",
    "indexed_point_sample",
    "indexed_roi_align",
    "intersection_area",
    "mask_targets",
    "match",
    "matrix_nms",
    "min_size_mask",
    "multilevel_roi_align",
    "nms",
    "paste_masks",
    "point_sample",
    "points_in_boxes",
    "points_in_image",
    "points_nms",
    "random_priority",
    "roi_align",
    "roi_point_sample",
    "sample_balanced",
    "uncertain_cells",
    "uncertain_points",
]
