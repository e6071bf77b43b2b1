import math

import numpy as np


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return the mask's pixels whose square window holds a pixel outside the mask or the image."""
    height, width = mask.shape
    distance = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            window = [
                0 <= row < height and 0 <= column < width and bool(mask[row, column])
                for row in range(y - distance, y + distance + 1)
                for column in range(x - distance, x + distance + 1)
            ]
            out[y, x] = mask[y, x] and not all(window)
    return out


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection of two masks over their union; 0 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
