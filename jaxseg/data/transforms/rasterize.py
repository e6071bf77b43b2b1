"""Rasterise an object's run-length encoded mask into a training target.

Coordinates are those of `jaxseg.data.transforms.view`.
"""

import numpy as np

from jaxseg.data.transforms.objects import (
    ViewedObject,
    bucket_bounds,
    region_bitmap,
    visible_pixels,
)
from jaxseg.types import BoxCrops, ImageMasks

_HALF = 0.5 - 1e-6
"""The threshold of half coverage, with a margin for rounding errors."""


def rasterize(item: ViewedObject, out: np.ndarray, spec: BoxCrops | ImageMasks) -> None:
    """Fill `out`, an array of False of the shape that `spec` gives, with an object's mask."""
    if isinstance(spec, ImageMasks):
        fill_image_mask(item, out, spec.stride)
    else:
        fill_box_crop(item, out)


def fill_box_crop(item: ViewedObject, out: np.ndarray) -> None:
    """Fill `out`, bool `[M, M]`, with the mask sampled bilinearly at `M x M` points of its box.

    A point is set if it is at least half covered. The samples are taken from the mask as
    annotated, so resizing the image loses no detail of it.
    """
    size = len(out)
    x1, y1, x2, y2 = item.region_box.tolist()
    steps = (np.arange(size) + 0.5) / size  # [M], centres of the cells
    # Pixel indices of the points in the region, where the first pixel's centre is 0: [M] each.
    xs, ys = x1 + steps * (x2 - x1) - 0.5, y1 + steps * (y2 - y1) - 0.5
    height, width = item.view.region_size
    rows, row_weights = _neighbours(ys, height)  # [2M]
    columns, column_weights = _neighbours(xs, width)  # [2M]
    top, left = int(rows.min()), int(columns.min())
    bounds = top, left, int(rows.max()) + 1, int(columns.max()) + 1
    bitmap = region_bitmap(item.rle, item.view, bounds)
    corners = bitmap[rows - top][:, columns - left]  # [2M, 2M]
    out[:] = _interpolate(corners, row_weights, column_weights) >= _HALF
    if item.occluded is not None:
        # The same points in the bucket, where the occluded pixels are known.
        x_scale, y_scale = item.view.scale_factor[:2]
        height, width = item.occluded.shape
        rows, row_weights = _neighbours((ys + 0.5) * y_scale - 0.5, height)
        columns, column_weights = _neighbours((xs + 0.5) * x_scale - 0.5, width)
        corners = item.occluded[rows][:, columns]  # [2M, 2M]
        out &= _interpolate(corners, row_weights, column_weights) < _HALF


def _neighbours(points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two pixels beside each point `[n]`, int `[2n]`, and their bilinear weights `[2n]`.

    Pixels outside of 0 to `side` have weight 0; their indices are clipped so that they can be read.
    """
    before = np.floor(points)
    pixels, weights = np.empty(2 * len(points)), np.empty(2 * len(points))
    pixels[::2], pixels[1::2] = before, before + 1  # the pairs are interleaved
    weights[1::2] = points - before
    weights[::2] = 1 - weights[1::2]
    weights[(pixels < 0) | (pixels >= side)] = 0
    return pixels.clip(0, side - 1).astype(np.int64), weights


def _interpolate(
    corners: np.ndarray, row_weights: np.ndarray, column_weights: np.ndarray
) -> np.ndarray:
    """Return the weighted sums `[n, m]` of 2x2 corners `[2n, 2m]` as `_neighbours` orders them."""
    weighted = corners * column_weights  # [2n, 2m]
    sides = (weighted[:, ::2] + weighted[:, 1::2]) * row_weights[:, None]  # [2n, m]
    return sides[::2] + sides[1::2]


def fill_image_mask(item: ViewedObject, out: np.ndarray, stride: int) -> None:
    """Fill `out`, bool `[H/s, W/s]` and all False, with the mask in the padded image at a stride.

    The mask is resized with its image to the nearest pixel, as the references do, and then to the
    stride, bilinear and rounded, as SOLO's authors do. Bilinear sampling at a stride is the mean
    of the pixels around each cell's centre: one a side if the stride is odd, else two.
    """
    top, left, bottom, right = bucket_bounds(item)
    if bottom <= top or right <= left:
        return
    first_row, first_column = top // stride, left // stride
    cells = out[first_row : -(-bottom // stride), first_column : -(-right // stride)]  # [r, c]
    rows = _center_pixels(first_row, cells.shape[0], stride)  # [r] or [2r]
    columns = _center_pixels(first_column, cells.shape[1], stride)  # [c] or [2c]
    pixels = np.zeros((len(rows), len(columns)), np.uint8)
    # The centres of the last cells may be in the padding, where no mask has pixels.
    height, width = (rows < item.view.size[0]).sum(), (columns < item.view.size[1]).sum()
    pixels[:height, :width] = visible_pixels(item, rows[:height], columns[:width])
    if stride % 2:
        cells[:] = pixels > 0
    else:
        sums = pixels[::2] + pixels[1::2]  # [r, 2c]
        cells[:] = sums[:, ::2] + sums[:, 1::2] >= 2  # at least two of four pixels


def _center_pixels(first: int, count: int, stride: int) -> np.ndarray:
    """Return the pixels around the centres of `count` cells from number `first` on.

    They are int `[count]`, or `[2 * count]` if the stride is even.
    """
    offsets = [stride // 2] if stride % 2 else [stride // 2 - 1, stride // 2]
    return (np.arange(first, first + count)[:, None] * stride + offsets).reshape(-1)
