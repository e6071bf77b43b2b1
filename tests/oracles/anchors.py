import math

import numpy as np


def cell(sizes: list[float], aspect_ratios: list[float], rounded: bool) -> np.ndarray:
    """Return boxes around the origin, of area `size ** 2` and `height / width = ratio`."""
    boxes = []
    for ratio in aspect_ratios:
        for size in sizes:
            width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
            box = [-width / 2, -height / 2, width / 2, height / 2]
            # Python rounds halves to the even integer.
            boxes.append([float(round(value)) for value in box] if rounded else box)
    return np.asarray(boxes)


def grid(
    cell_boxes: np.ndarray, rows: int, columns: int, stride_y: int, stride_x: int
) -> np.ndarray:
    """Return the cell's boxes, shifted to each cell of a grid."""
    boxes = []
    for row in range(rows):
        for column in range(columns):
            for x1, y1, x2, y2 in cell_boxes:
                x, y = column * stride_x, row * stride_y
                boxes.append([x1 + x, y1 + y, x2 + x, y2 + y])
    return np.asarray(boxes)
