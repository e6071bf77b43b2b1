"""Mask targets rasterised from polygons, as in Detectron2's and MMDetection's `PolygonMasks`.

pycocotools rasterises them on the host, for RoIs that are known there. Training samples its RoIs
on the device and therefore uses cropped masks (`jaxseg.ops.mask_targets`) instead;
`scripts/compare_mask_targets.py` measures the difference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

_MIN_SIDE = 0.1
"""Width and height of an RoI, in pixels, count as at least this."""


def polygon_targets(
    polygons: Sequence[Sequence[Any]],
    rois: np.ndarray,
    gt_index: np.ndarray,
    *,
    size: int,
) -> np.ndarray:
    """Rasterise the mask of object `gt_index[r]` inside `rois[r]`: bool `[R, size, size]`.

    The polygons are shifted and scaled so that the RoI becomes `size` pixels wide and high.

    Args:
        polygons: for each object its polygons, each `[x0, y0, x1, y1, ...]` in pixels.
        rois: float `[R, 4]`, `xyxy`.
        gt_index: int `[R]`, indices into `polygons`.
    """
    targets = np.zeros((len(rois), size, size), bool)
    for target, roi, index in zip(targets, np.asarray(rois, np.float64), gt_index, strict=True):
        scale = size / np.maximum(roi[2:] - roi[:2], _MIN_SIDE)  # [2], x and y
        in_roi = [
            ((np.reshape(polygon, (-1, 2)) - roi[:2]) * scale).reshape(-1).tolist()
            for polygon in polygons[index]
        ]
        rles = mask_api.frPyObjects(in_roi, size, size)
        target[:] = mask_api.decode(mask_api.merge(rles))
    return targets
