import math
from collections.abc import Callable

import numpy as np

from tests.oracles.boxes import area, intersection


def sigmoid_cross_entropy(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def sigmoid_focal(logit: float, target: float, alpha: float | None, gamma: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    if_positive = -((1 - probability) ** gamma) * math.log(probability)
    if_negative = -(probability**gamma) * math.log(1 - probability)
    if alpha is not None:
        if_positive, if_negative = alpha * if_positive, (1 - alpha) * if_negative
    return if_positive if target == 1 else if_negative


def softmax_cross_entropy(logits: np.ndarray, label: int) -> float:
    return -math.log(math.exp(logits[label]) / sum(math.exp(logit) for logit in logits))


def smooth_l1(prediction: float, target: float, beta: float) -> float:
    distance = abs(prediction - target)
    return distance**2 / (2 * beta) if distance < beta else distance - beta / 2


def dice(probabilities: np.ndarray, targets: np.ndarray, epsilon: float) -> float:
    overlap, squares = 0.0, 2 * epsilon
    for p, t in zip(probabilities.flat, targets.flat, strict=True):
        overlap += p * t
        squares += p * p + t * t
    return 1 - 2 * overlap / squares


def giou(a: np.ndarray, b: np.ndarray) -> float:
    """1 - (IoU - the fraction of the enclosing box that neither box covers)."""
    enclosing = np.asarray([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - intersection(a, b)
    iou = intersection(a, b) / union if union > 0 else 0.0
    uncovered = (area(enclosing) - union) / area(enclosing) if area(enclosing) > 0 else 0.0
    return 1 - iou + uncovered


def gradient(
    function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """Return the gradient by central differences."""
    x = x.astype(float)
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        out[index] = (function(above) - function(below)) / (2 * step)
    return out
