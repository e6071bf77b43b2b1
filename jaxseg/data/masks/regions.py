"""Parts of masks straight from their run lengths: what is outside the part costs nothing.

pycocotools decodes whole masks only. A mask of 640x480 takes it some 0.2 ms however small the
object is, and the masks of one aerial photograph of 20,000x20,000 pixels 400 MB each.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.masks.rle import run_ends
from jaxseg.data.source import RLE


def decode_part(rle: RLE, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """Rows `top` to `bottom` and columns `left` to `right` of a mask, uint8 0 and 1.

    The part must lie inside the mask; ends are not included.
    """
    height, width = bottom - top, right - left
    column, row = np.divmod(run_ends(rle["counts"]), rle["size"][0])
    # Where the runs begin and end, counted in pixels of the part alone.
    edges = np.zeros(len(row) + 2, np.int64)
    edges[1:-1] = (column - left) * height + (row - top).clip(0, height)
    edges[-1] = height * width
    lengths = np.diff(edges.clip(0, height * width))
    values = np.arange(len(lengths), dtype=np.uint8) & 1
    if len(lengths) % 2 == 0:
        values[-1] = 0  # beyond the last run nothing is set
    return np.repeat(values, lengths).reshape(width, height).T


def mask_bounds(rles: Sequence[RLE]) -> np.ndarray:
    """The tight box of each mask, int64 `[n, 4]`, `xyxy`, half-open; zeros for empty masks."""
    if not rles:
        return np.zeros((0, 4), np.int64)
    boxes = mask_api.toBbox(list(rles)).astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def bitmap_bounds(bitmap: np.ndarray) -> tuple[int, int, int, int] | None:
    """`(top, left, bottom, right)` of what is set, half-open; None if nothing is."""
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
