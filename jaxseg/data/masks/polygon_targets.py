"""Mask targets straight from polygons, as Detectron2's and MMDetection's `PolygonMasks` make them.

They are rasterised by pycocotools, on the host, for RoIs that are known there. A training step
samples its RoIs on the device and learns from crops instead (`jaxseg.ops.mask_targets`);
`scripts/compare_mask_targets.py` tells how far these are apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

_SHORTEST = 0.1
"""Sides of RoIs count as at least so many pixels."""


def polygon_targets(
    polygons: Sequence[Sequence[Any]],
    rois: np.ndarray,
    gt_index: np.ndarray,
    *,
    size: int,
) -> np.ndarray:
    """Bool `[R, size, size]`: the mask of object `gt_index[r]` inside `rois[r]`.

    `polygons[i]` are those of object i, each `[x0, y0, x1, y1, ...]` in pixels; `rois` are `xyxy`,
    float `[R, 4]`. The polygons are moved and stretched so that the RoI is `size` pixels wide and
    high.
    """
    targets = np.zeros((len(rois), size, size), bool)
    for target, roi, index in zip(targets, np.asarray(rois, np.float64), gt_index, strict=True):
        scale = size / np.maximum(roi[2:] - roi[:2], _SHORTEST)
        moved = [
            ((np.reshape(polygon, (-1, 2)) - roi[:2]) * scale).reshape(-1).tolist()
            for polygon in polygons[index]
        ]
        rles = mask_api.frPyObjects(moved, size, size)
        target[:] = mask_api.decode(mask_api.merge(rles))
    return targets
