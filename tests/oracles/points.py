import math

import numpy as np

from tests.oracles.masks import interpolate


def weight_and_slope(position: float, cell: int) -> tuple[float, float]:
    """Return a cell's weight along one axis, and its derivative to the right of the position."""
    low = math.floor(position)
    if cell == low:
        return 1 - (position - low), -1.0
    if cell == low + 1:
        return position - low, 1.0
    return 0.0, 0.0


def point_sample(
    features: np.ndarray, points: np.ndarray, out_gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the values at points in [0, 1], and the gradients of the map and of the points."""
    height, width, channels = features.shape
    values = np.zeros((len(points), channels))
    features_gradient, points_gradient = np.zeros(features.shape), np.zeros(points.shape)
    for p, (px, py) in enumerate(points.astype(np.float64)):
        for y in range(height):
            for x in range(width):
                weight_y, slope_y = weight_and_slope(py * height - 0.5, y)
                weight_x, slope_x = weight_and_slope(px * width - 0.5, x)
                values[p] += weight_y * weight_x * features[y, x]
                features_gradient[y, x] += weight_y * weight_x * out_gradient[p]
                pulled = (features[y, x] * out_gradient[p]).sum()
                points_gradient[p, 0] += slope_x * width * weight_y * pulled
                points_gradient[p, 1] += slope_y * height * weight_x * pulled
    return values, features_gradient, points_gradient


def crop_value(mask: np.ndarray, frame: np.ndarray, x: float, y: float) -> float:
    """Return a cropped mask's value at a pixel coordinate; its outer cells reach to the border."""
    x1, y1, x2, y2 = (float(value) for value in frame)
    if not (x1 <= x <= x2 and y1 <= y <= y2 and x1 < x2 and y1 < y2):
        return 0.0
    height, width = mask.shape
    row = min(max((y - y1) / (y2 - y1) * height - 0.5, 0), height - 1)
    column = min(max((x - x1) / (x2 - x1) * width - 0.5, 0), width - 1)
    return interpolate(mask, row, column)
