import numpy as np


def interpolate(mask: np.ndarray, y: float, x: float) -> float:
    """Bilinear, between cell centres at whole positions; cells beyond the mask hold 0."""
    value = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            near_y, near_x = max(1 - abs(y - row), 0), max(1 - abs(x - column), 0)
            value += mask[row, column] * near_y * near_x
    return value


def paste(mask: np.ndarray, box: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The mask over the box, read at the centre of every pixel."""
    x1, y1, x2, y2 = box
    out = np.zeros(image_size)
    for y in range(image_size[0]):
        for x in range(image_size[1]):
            row = (y + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
            column = (x + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
            out[y, x] = interpolate(mask, row, column)
    return out
