"""Run-length encode predicted masks on the original image, on the host.

Each mask is interpolated on its own and only where it can be set, so that memory does not grow
with their number. A pixel belongs to an instance where the interpolated probability is at least one
half.

Interpolation is separable: the rows first, then the columns. A pixel has two cells along each axis,
or three where a mask is resized twice. These are gathered, which is faster than a product with a
matrix of weights that is mostly zeros.

Terms:
    T, P  cells of a pixel and pixels, along one axis
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.data.masks.regions import Part, encode_parts
from jaxseg.data.ragged import offsets, positions
from jaxseg.data.source import RLE
from jaxseg.ops.bilinear import Paste, paste_position, paste_span
from jaxseg.types import MaskFrame

THRESHOLD = 0.5
"""Least probability of a mask's pixels."""

Size = tuple[int, int]
"""`(height, width)`."""

_BAND_PIXELS = 1 << 16
"""Pixels that are interpolated at once, such that they stay in a core's cache."""


def masks_to_rles(
    masks: Sequence[np.ndarray] | np.ndarray,
    boxes: np.ndarray,
    frame: MaskFrame | None,
    *,
    bucket: Size,
    image_size: Size,
    original_size: Size,
) -> list[RLE]:
    """Return the RLEs of one image's masks (n of float32 `[h, w]`) on the original image.

    Args:
        masks: probabilities in `frame`.
        boxes: float32 `[n, 4]`, in pixels of the original image; not used by `MaskFrame.IMAGE`.
        frame: the masks' frame. ValueError if it is None.
        bucket: size of the padded image.
        image_size: size of the resized image inside the padding.
        original_size: size of the original image.
    """
    if frame is None:
        raise ValueError("detections have masks without a frame: set Detections.mask_frame")
    if frame is MaskFrame.IMAGE:
        return image_mask_rles(masks, bucket, image_size, original_size)
    paste: Paste = "integer" if frame is MaskFrame.INTEGER else "grid_sample"
    return box_mask_rles(masks, boxes, original_size, paste=paste)


def box_mask_rles(
    masks: Sequence[np.ndarray] | np.ndarray, boxes: np.ndarray, size: Size, *, paste: Paste
) -> list[RLE]:
    """Return the RLEs of masks (n of float32 `[h, w]`) over their boxes, on an image of `size`.

    Equals `jaxseg.ops.paste_masks`, thresholded, but computes only the pixels of each box.
    """
    if not len(masks):
        return []
    # Truncated to whole pixels, corners depend on the last digit: torchvision computes in float32.
    boxes = np.asarray(boxes, np.float32 if paste == "integer" else np.float64)
    cells_y, cells_x = masks[0].shape
    rows = _paste_axes(boxes[:, 1], boxes[:, 3], cells_y, size[0], paste)
    columns = _paste_axes(boxes[:, 0], boxes[:, 2], cells_x, size[1], paste)
    return encode_parts(itertools.starmap(_part, zip(masks, rows, columns, strict=True)), size)


def image_mask_rles(
    masks: Sequence[np.ndarray] | np.ndarray, bucket: Size, image_size: Size, original_size: Size
) -> list[RLE]:
    """Return the RLEs of masks (n of float32 `[h, w]`) in the padded image's frame.

    The masks are enlarged to the bucket, cut to the image and resized to the original image. A
    probability differs by up to 1e-6 from that of two calls of OpenCV's `resize`.
    """
    if not len(masks):
        return []
    rows, columns = (
        _resize_axis(*sizes)
        for sizes in zip(masks[0].shape, bucket, image_size, original_size, strict=True)
    )

    def part(mask: np.ndarray) -> Part:
        # A pixel can be set only where one of its cells is.
        spans = (np.flatnonzero(mask.max(axis) >= THRESHOLD) for axis in (1, 0))
        rows_of_mask, columns_of_mask = (
            axis.near(int(span[0]), int(span[-1])) if len(span) else axis.part(0, 0)
            for axis, span in zip((rows, columns), spans, strict=True)
        )
        return _part(mask, rows_of_mask, columns_of_mask)

    return encode_parts(map(part, masks), original_size)


class _Axis(NamedTuple):
    """The cells that P consecutive pixels of one axis are interpolated from, and their weights."""

    start: int
    """The first pixel."""
    cells: np.ndarray  # int64 [T, P], the index of each cell, from low to high
    weights: np.ndarray  # float32 [T, P]

    def part(self, first: int, stop: int) -> "_Axis":
        """Return the pixels at the positions `first` to `stop`, half-open."""
        return _Axis(self.start + first, self.cells[:, first:stop], self.weights[:, first:stop])

    def near(self, first: int, last: int) -> "_Axis":
        """Return the pixels with a cell from `first` to `last`. Cells must rise with the pixels."""
        lowest, highest = self.cells[0], self.cells[-1]
        return self.part(
            int(highest.searchsorted(first)), int(lowest.searchsorted(last, side="right"))
        )

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Return the pixels (`[P, k]`) between the rows of `values` (`[cells, k]`)."""
        first, *others = zip(self.cells, self.weights, strict=True)
        pixels = values.take(first[0], axis=0) * first[1][:, None]
        for cells, weights in others:
            pixels += values.take(cells, axis=0) * weights[:, None]
        return pixels


def _paste_axes(
    start: np.ndarray, end: np.ndarray, cells: int, size: int, paste: Paste
) -> list[_Axis]:
    """Return for each mask the pixels of an image's axis that it can touch; `[n]` starts, ends."""
    first, stop = paste_span(start, end, cells, paste)
    stop = np.clip(stop, 0, size)
    first = np.clip(first, 0, stop).astype(np.int64)
    lengths = stop.astype(np.int64) - first
    pixels = np.repeat(first, lengths) + positions(lengths)  # [all P], of one mask after the other
    box = np.repeat(np.arange(len(start)), lengths)
    position = paste_position(start[box], end[box], cells, pixels.astype(start.dtype), paste)
    index, weights = _two_cells(np.asarray(position))
    weights *= (index >= 0) & (index < cells)  # a mask has zeros around it
    axis = _Axis(0, index.clip(0, cells - 1), weights.astype(np.float32))
    ends = offsets(lengths).tolist()
    return [
        axis.part(ends[i], ends[i + 1])._replace(start=left)
        for i, left in enumerate(first.tolist())
    ]


def _resize_axis(cells: int, bucket: int, image: int, original: int) -> _Axis:
    """Return the pixels of an original image, from cells that fill the image's bucket."""

    def resized(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        position = (np.arange(target) + 0.5) * (source / target) - 0.5
        index, weights = _two_cells(position.clip(0, source - 1))  # border cells are repeated
        return index.clip(0, source - 1), weights

    enlarged, enlarged_weights = resized(cells, bucket)
    between, between_weights = resized(image, original)
    index = enlarged[:, between]  # [2, 2, P]: cells of the two pixels of the resized image
    lowest = index[0, 0]
    offset = index - lowest
    every = np.arange(len(lowest))
    weights = np.zeros((int(offset.max(initial=0)) + 1, len(lowest)))
    for cell in range(2):
        for pixel in range(2):
            product = enlarged_weights[cell, between[pixel]] * between_weights[pixel]
            weights[offset[cell, pixel], every] += product
    steps = np.arange(len(weights))[:, None]
    return _Axis(0, (lowest + steps).clip(0, cells - 1), weights.astype(np.float32))


def _two_cells(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells on both sides of positions `[P]`, counted in cells, and their weights."""
    below = np.floor(position)
    share = position - below
    index = below.astype(np.int64)
    return np.stack([index, index + 1]), np.stack([1 - share, share])


def _part(mask: np.ndarray, rows: _Axis, columns: _Axis) -> Part:
    """Return the part of the image that a mask can touch."""
    r, c = rows.cells.shape[1], columns.cells.shape[1]
    part = np.zeros((c, r), bool)
    if part.size:
        # Only the mask's columns that are needed, as rows: run lengths go down the columns.
        left, right = int(columns.cells.min()), int(columns.cells.max()) + 1
        by_column = np.ascontiguousarray(rows.interpolate(mask[:, left:right]).T)
        shifted = columns._replace(cells=columns.cells - left)
        band = max(1, _BAND_PIXELS // r)
        for first in range(0, c, band):
            pixels = shifted.part(first, first + band).interpolate(by_column)
            np.greater_equal(pixels, THRESHOLD, out=part[first : first + band])
    return part, rows.start, columns.start
