"""Regions and bounds of masks, computed from run lengths without decoding the rest.

pycocotools decodes whole masks only. A mask of 640x480 takes it some 0.2 ms however small the
object is, and the masks of one aerial photograph of 20,000x20,000 pixels take 400 MB each.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.masks.rle import run_ends
from jaxseg.data.source import RLE


def decode_part(rle: RLE, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """Decode rows `top` to `bottom` and columns `left` to `right` of a mask.

    The region is half-open and must lie inside the mask. Returns uint8 0 and 1,
    `[bottom - top, right - left]`.
    """
    height, width = bottom - top, right - left
    column, row = np.divmod(run_ends(rle["counts"]), rle["size"][0])  # [R], the end of each run
    # The run boundaries, counted in pixels of the region alone, down its columns: [R + 2]. An end
    # above or below the region moves to the first or last row of its column, and one outside its
    # columns to the start or end of the region.
    edges = np.zeros(len(row) + 2, np.int64)
    edges[1:-1] = (column - left) * height + (row - top).clip(0, height)
    edges[-1] = height * width
    lengths = np.diff(edges.clip(0, height * width))  # [R + 1]
    values = np.arange(len(lengths), dtype=np.uint8) & 1  # background and foreground alternate
    if len(lengths) % 2 == 0:
        values[-1] = 0  # the pixels after the last run are background
    return np.repeat(values, lengths).reshape(width, height).T


def mask_bounds(rles: Sequence[RLE]) -> np.ndarray:
    """Return the tight box of each mask, int64 `[n, 4]`, `xyxy`, half-open; 0 for empty masks."""
    if not rles:
        return np.zeros((0, 4), np.int64)
    boxes = mask_api.toBbox(list(rles)).astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def bitmap_bounds(bitmap: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return `(top, left, bottom, right)` of the nonzero pixels, half-open; None if all are 0."""
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
