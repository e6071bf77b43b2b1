import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def greedy_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    valid: np.ndarray,
) -> np.ndarray:
    keep = np.zeros(len(boxes), bool)
    for i in sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i)):
        keep[i] = not any(
            labels[i] == labels[j] and iou(boxes[i], boxes[j]) > threshold
            for j in np.flatnonzero(keep)
        )
    return keep
