import math

import numpy as np


def bilinear(features: np.ndarray, y: float, x: float) -> np.ndarray:
    height, width, channels = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(channels)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    top = features[y0, x0] * (1 - fx) + features[y0, x1] * fx
    bottom = features[y1, x0] * (1 - fx) + features[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def roi_align(
    features: np.ndarray,
    boxes: np.ndarray,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> np.ndarray:
    rows, columns = output_size
    out = np.zeros((len(boxes), rows, columns, features.shape[2]))
    for n, (x1, y1, x2, y2) in enumerate(boxes * spatial_scale - (0.5 if aligned else 0)):
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bin_h, bin_w = height / rows, width / columns
        count_y = sampling_ratio or math.ceil(bin_h)
        count_x = sampling_ratio or math.ceil(bin_w)
        for i in range(rows):
            for j in range(columns):
                for a in range(count_y):
                    for b in range(count_x):
                        y = y1 + (i + (a + 0.5) / count_y) * bin_h
                        x = x1 + (j + (b + 0.5) / count_x) * bin_w
                        out[n, i, j] += bilinear(features, y, x) / (count_y * count_x)
    return out
