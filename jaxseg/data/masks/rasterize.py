"""Masks in the frame that a model asks for, from run lengths.

The terms are those of `jaxseg.data.transforms.view`.
"""

from collections.abc import Callable

import numpy as np

from jaxseg.data.transforms.objects import (
    ViewedObject,
    extent_in_bucket,
    pixels_in_bucket,
    seen_bitmap,
)
from jaxseg.types import MaskFrame

_HALF = 0.5 - 1e-6
"""Half covered, whichever way the last digit was rounded."""


def crop_to_box(item: ViewedObject, out: np.ndarray) -> None:
    """Fills `out`, bool `[M, M]`, with the mask at `M x M` points of its box, bilinear, at least
    half covered.

    It is taken from the mask as annotated, so that resizing the image costs it nothing.
    """
    size = len(out)
    x1, y1, x2, y2 = item.seen.tolist()
    middles = (np.arange(size) + 0.5) / size
    xs, ys = x1 + middles * (x2 - x1) - 0.5, y1 + middles * (y2 - y1) - 0.5
    height, width = item.view.part
    rows, row_weights = _neighbours(ys, height)
    columns, column_weights = _neighbours(xs, width)
    top, left = int(rows.min()), int(columns.min())
    bitmap = seen_bitmap(
        item.rle, item.view, top, left, int(rows.max()) + 1, int(columns.max()) + 1
    )
    corners = bitmap[rows - top][:, columns - left]
    out[:] = _weigh(corners, row_weights, column_weights) >= _HALF
    if item.cover is not None:
        factors = item.view.factors
        rows, row_weights = _neighbours((ys + 0.5) * factors[1] - 0.5, len(item.cover))
        columns, column_weights = _neighbours((xs + 0.5) * factors[0] - 0.5, item.cover.shape[1])
        corners = item.cover[rows][:, columns]
        out &= _weigh(corners, row_weights, column_weights) < _HALF


def _neighbours(points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The two pixels beside each point, int `[2n]`, and their weights, 0 beyond the picture."""
    before = np.floor(points)
    pixels, weights = np.empty(2 * len(points)), np.empty(2 * len(points))
    pixels[::2], pixels[1::2] = before, before + 1
    weights[1::2] = points - before
    weights[::2] = 1 - weights[1::2]
    weights[(pixels < 0) | (pixels >= side)] = 0
    return pixels.clip(0, side - 1).astype(np.int64), weights


def _weigh(corners: np.ndarray, row_weights: np.ndarray, column_weights: np.ndarray) -> np.ndarray:
    weighted = corners * column_weights
    sides = (weighted[:, ::2] + weighted[:, 1::2]) * row_weights[:, None]
    return sides[::2] + sides[1::2]


def whole_image(item: ViewedObject, out: np.ndarray, stride: int) -> None:
    """Fills `out`, bool `[H/s, W/s]` and False, with the mask resized with its image to the nearest
    pixel, as the references do, on the canvas; then at a stride, bilinear and rounded, as SOLO's
    authors do.

    At a stride, bilinear is the mean of the pixels around each cell's middle: one or two a side.
    """
    top, left, bottom, right = extent_in_bucket(item)
    if bottom <= top or right <= left:
        return
    first_row, first_column = top // stride, left // stride
    cells = out[first_row : -(-bottom // stride), first_column : -(-right // stride)]
    rows = _middles(first_row, cells.shape[0], stride)
    columns = _middles(first_column, cells.shape[1], stride)
    pixels = np.zeros((len(rows), len(columns)), np.uint8)
    height, width = (rows < item.view.size[0]).sum(), (columns < item.view.size[1]).sum()
    pixels[:height, :width] = pixels_in_bucket(item, rows[:height], columns[:width])
    if stride % 2:
        cells[:] = pixels > 0
    else:
        sides = pixels[::2] + pixels[1::2]
        cells[:] = sides[:, ::2] + sides[:, 1::2] >= 2


def _middles(first: int, cells: int, stride: int) -> np.ndarray:
    """The pixels around the middles of cells."""
    around = [stride // 2] if stride % 2 else [stride // 2 - 1, stride // 2]
    return (np.arange(first, first + cells)[:, None] * stride + around).reshape(-1)


def rasterizer(frame: MaskFrame, size: int) -> Callable[[ViewedObject, np.ndarray], None]:
    """What fills an object's mask into an array of zeros, in the frame and size of a `MaskSpec`."""
    if frame is MaskFrame.IMAGE:
        return lambda item, out: whole_image(item, out, size)
    return crop_to_box
