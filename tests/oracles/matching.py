import numpy as np


def match(
    iou: np.ndarray,
    gt_valid: np.ndarray,
    anchor_valid: np.ndarray,
    high: float,
    low: float,
    min_pos_iou: float | None = 0.0,
    low_quality_overrides: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `gt_index`, `positive` and `negative` of each anchor."""
    anchors, objects = np.flatnonzero(anchor_valid), np.flatnonzero(gt_valid)
    gt_index = np.zeros(len(iou), np.int32)
    positive, negative = np.zeros(len(iou), bool), np.zeros(len(iou), bool)
    for a in anchors:
        best = -1.0
        for n in objects:
            if iou[a, n] > best:
                best, gt_index[a] = iou[a, n], n
        positive[a], negative[a] = best >= high, best < low
    if min_pos_iou is None:
        return gt_index, positive, negative
    for n in objects:
        best = max((iou[a, n] for a in anchors), default=-1.0)
        for a in anchors:
            if iou[a, n] == best and best >= min_pos_iou:
                positive[a], negative[a] = True, False
                if low_quality_overrides:
                    gt_index[a] = n
    return gt_index, positive, negative
