import math

import numpy as np


def area(box: np.ndarray) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def intersection(a: np.ndarray, b: np.ndarray) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    return width * height


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = area(a) + area(b) - intersection(a, b)
    return intersection(a, b) / union if union > 0 else 0.0


def min_size_mask(box: np.ndarray, side: float) -> bool:
    return area(box) > 0 and box[2] - box[0] >= side and box[3] - box[1] >= side


def clip(box: np.ndarray, height: float, width: float) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    limits = [(x1, width), (y1, height), (x2, width), (y2, height)]
    return [min(max(value, 0.0), limit) for value, limit in limits]


def encode(box: np.ndarray, anchor: np.ndarray, weights: tuple[float, ...]) -> list[float]:
    x, y, width, height = center_and_size(box)
    ax, ay, anchor_width, anchor_height = center_and_size(anchor)
    return [
        weights[0] * (x - ax) / anchor_width,
        weights[1] * (y - ay) / anchor_height,
        weights[2] * math.log(width / anchor_width),
        weights[3] * math.log(height / anchor_height),
    ]


def decode(delta: np.ndarray, anchor: np.ndarray, weights: tuple[float, ...]) -> list[float]:
    dx, dy, dw, dh = (float(d) / w for d, w in zip(delta, weights, strict=True))
    ax, ay, anchor_width, anchor_height = center_and_size(anchor)
    x, y = ax + dx * anchor_width, ay + dy * anchor_height
    width = anchor_width * min(math.exp(dw), 1000 / 16)
    height = anchor_height * min(math.exp(dh), 1000 / 16)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def center_and_size(box: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


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
