"""Parts of masks straight from their run lengths: what is outside the part costs nothing.

pycocotools decodes whole masks only. A mask of 640x480 takes it some 0.2 ms however small the
object is, and the masks of one aerial photograph of 20,000x20,000 pixels 400 MB each.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.source import RLE


def run_ends(counts: bytes) -> np.ndarray:
    """Where each run of a compressed RLE ends, int64, counted down the columns; 0s and 1s in turn.

    A number is characters of 5 bits each, lowest first, counted from "0"; bit 5 says that another
    one follows, bit 4 of the last is the sign. From the fourth number on it is the difference from
    the run two before (pycocotools, `rleFrString`).
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)
    if not len(last):
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    place = np.arange(last[-1] + 1) - np.repeat(first, length)
    runs = np.add.reduceat((codes[: last[-1] + 1] & 31) << (5 * place), first)
    runs -= (codes[last] >> 4 & 1) << (5 * length)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.cumsum(runs)


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
