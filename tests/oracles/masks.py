import numpy as np


def interpolate(mask: np.ndarray, y: float, x: float) -> float:
    """Interpolate bilinearly between cell centres at whole positions; cells outside hold 0."""
    value = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            weight_y, weight_x = max(1 - abs(y - row), 0), max(1 - abs(x - column), 0)
            value += mask[row, column] * weight_y * weight_x
    return value


def paste(mask: np.ndarray, box: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Sample the mask over the box at the centre of every pixel; zeros for an empty box."""
    x1, y1, x2, y2 = (float(value) for value in box)
    out = np.zeros(image_size)
    if x2 <= x1 or y2 <= y1:
        return out
    for y in range(image_size[0]):
        for x in range(image_size[1]):
            row = (y + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
            column = (x + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
            out[y, x] = interpolate(mask, row, column)
    return out


def paste_integer(mask: np.ndarray, box: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Resize the mask with a border of zeros to the grown box of whole pixels, and put it there."""
    side = len(mask)
    padded = np.zeros((side + 2, side + 2))
    padded[1:-1, 1:-1] = mask
    x1, y1, x2, y2 = (float(value) for value in box)
    grown = (side + 2) / side
    left, right = grow(x1, x2, grown)
    top, bottom = grow(y1, y2, grown)
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    out = np.zeros(image_size)
    for i in range(height):
        for j in range(width):
            y, x = top + i, left + j
            if 0 <= y < image_size[0] and 0 <= x < image_size[1]:
                row = (i + 0.5) * (side + 2) / height - 0.5
                column = (j + 0.5) * (side + 2) / width - 0.5
                # Beyond the centres of the border's cells, these are repeated.
                row, column = min(max(row, 0), side + 1), min(max(column, 0), side + 1)
                out[y, x] = interpolate(padded, row, column)
    return out


def grow(start: float, end: float, factor: float) -> tuple[int, int]:
    """Scale a side around its centre and truncate its ends."""
    center, half = (start + end) / 2, (end - start) / 2 * factor
    return int(center - half), int(center + half)


def crop_target(mask: np.ndarray, frame: np.ndarray, roi: np.ndarray, size: int) -> np.ndarray:
    """Return for each cell of the RoI the mean of four points of the mask in the frame."""
    x1, y1, x2, y2 = (float(value) for value in roi)
    fx1, fy1, fx2, fy2 = (float(value) for value in frame)
    out = np.zeros((size, size))
    if fx2 <= fx1 or fy2 <= fy1:
        return out
    rows, columns = mask.shape
    for i in range(2 * size):
        for j in range(2 * size):
            y = y1 + (i + 0.5) / (2 * size) * (y2 - y1)
            x = x1 + (j + 0.5) / (2 * size) * (x2 - x1)
            if fy1 <= y <= fy2 and fx1 <= x <= fx2:
                row = (y - fy1) / (fy2 - fy1) * rows - 0.5
                column = (x - fx1) / (fx2 - fx1) * columns - 0.5
                row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
                out[i // 2, j // 2] += interpolate(mask, row, column) / 4
    return out


def tight_box(mask: np.ndarray, image_size: tuple[int, int], stride: int) -> list[float]:
    """Return the smallest box around the cells that are set; zeros if none are."""
    box = [np.inf, np.inf, 0, 0]
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            if mask[row, column]:
                corners = [column, row, column + 1, row + 1]
                box = [*map(min, box[:2], corners[:2]), *map(max, box[2:], corners[2:])]
    if not mask.any():
        return [0.0] * 4
    limits = [image_size[1], image_size[0]] * 2
    return [min(float(value * stride), limit) for value, limit in zip(box, limits, strict=True)]


def resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate bilinearly at the centre of each new pixel; beyond the outer centres, repeat."""
    rows, columns = values.shape
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            row = (y + 0.5) * rows / size[0] - 0.5
            column = (x + 0.5) * columns / size[1] - 0.5
            row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
            out[y, x] = interpolate(values, row, column)
    return out
