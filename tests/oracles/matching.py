import numpy as np


def match(
    iou: np.ndarray,
    gt_valid: np.ndarray,
    anchor_valid: np.ndarray,
    high: float,
    low: float,
    low_quality: float | None = 0.0,
    claims: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`gt`, `positive` and `negative` of each anchor, low-quality matches included."""
    anchors, objects = np.flatnonzero(anchor_valid), np.flatnonzero(gt_valid)
    gt = np.zeros(len(iou), np.int32)
    positive, negative = np.zeros(len(iou), bool), np.zeros(len(iou), bool)
    for a in anchors:
        best = -1.0
        for n in objects:
            if iou[a, n] > best:
                best, gt[a] = iou[a, n], n
        positive[a], negative[a] = best >= high, best < low
    if low_quality is None:
        return gt, positive, negative
    for n in objects:
        best = max((iou[a, n] for a in anchors), default=-1.0)
        for a in anchors:
            if iou[a, n] == best and best >= low_quality:
                positive[a], negative[a] = True, False
                if claims:
                    gt[a] = n
    return gt, positive, negative
