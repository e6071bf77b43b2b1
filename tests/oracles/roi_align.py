import math
from collections.abc import Iterator

import numpy as np

Cell = tuple[int, int, float]
"""Row, column and weight."""


def bilinear(height: int, width: int, y: float, x: float) -> list[Cell]:
    """Return the cells that a point of the map is interpolated from; none if it is outside."""
    if y < -1 or y > height or x < -1 or x > width:
        return []
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    return [
        (y0, x0, (1 - fy) * (1 - fx)),
        (y0, x1, (1 - fy) * fx),
        (y1, x0, fy * (1 - fx)),
        (y1, x1, fy * fx),
    ]


def samples(
    boxes: np.ndarray,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[tuple[tuple[int, int, int], float, float, float]]:
    """Yield each sample's bin `(box, row, column)`, its `y, x` and its weight in the bin."""
    rows, columns = output_size
    scaled = boxes.astype(float) * spatial_scale - (0.5 if aligned else 0)
    for n, (x1, y1, x2, y2) in enumerate(scaled):
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
                        yield (n, i, j), y, x, 1 / (count_y * count_x)


def roi_align(
    features: np.ndarray,
    boxes: np.ndarray,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> np.ndarray:
    height, width, channels = features.shape
    features = features.astype(float)
    out = np.zeros((len(boxes), *output_size, channels))
    for bin_index, y, x, sample_weight in samples(
        boxes, output_size, spatial_scale, sampling_ratio, aligned
    ):
        for row, column, weight in bilinear(height, width, y, x):
            out[bin_index] += sample_weight * weight * features[row, column]
    return out


def roi_align_gradient(
    shape: tuple[int, int, int],
    boxes: np.ndarray,
    out_gradient: np.ndarray,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> np.ndarray:
    """Return the gradient of features of `shape`: each cell's weights times the bins' gradients."""
    height, width, _ = shape
    gradient = np.zeros(shape)
    size = out_gradient.shape[1:3]
    for bin_index, y, x, sample_weight in samples(
        boxes, size, spatial_scale, sampling_ratio, aligned
    ):
        for row, column, weight in bilinear(height, width, y, x):
            gradient[row, column] += sample_weight * weight * out_gradient[bin_index]
    return gradient


def assign_level(
    box: np.ndarray, strides: list[int], canonical_box_size: float, canonical_level: int
) -> int:
    """Return the index of the coarsest stride whose smallest area the box reaches."""
    x1, y1, x2, y2 = (float(value) for value in box)
    area = max(x2 - x1, 0) * max(y2 - y1, 0)
    position = 0
    for level in range(1, len(strides)):
        smallest_side = canonical_box_size * strides[level] / 2**canonical_level
        if area >= smallest_side**2:
            position = level
    return position
