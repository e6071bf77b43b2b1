"""Regions and bounds of masks, from and to run lengths without the pixels of the rest.

pycocotools decodes and encodes whole masks only. A mask of 640x480 takes it some 0.2 ms however
small the object is, and the masks of one aerial photograph of 20,000x20,000 pixels take 400 MB
each.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.masks.rle import encode_runs, run_ends
from jaxseg.data.ragged import offsets
from jaxseg.data.source import RLE

Part = tuple[np.ndarray, int, int]
"""A region of a mask, transposed (`[columns, rows]`, 0 and 1), and its first row and column."""


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


def encode_parts(parts: Iterable[Part], size: tuple[int, int]) -> list[RLE]:
    """Encode masks of `(height, width)` that are empty outside a region each.

    The RLEs are those that pycocotools writes for the whole masks.
    """
    pixels = size[0] * size[1]
    runs = []
    for part in parts:
        changes = _changes(*part, size[0])
        # The end of the image ends the last run, and starts none.
        ends = changes if len(changes) and changes[-1] == pixels else np.append(changes, pixels)
        runs.append(np.diff(ends, prepend=0))
    if not runs:
        return []
    text, lengths = encode_runs(np.concatenate(runs), np.asarray([len(each) for each in runs]))
    whole = text.tobytes()
    return [
        {"size": list(size), "counts": whole[first:stop]}
        for first, stop in itertools.pairwise(offsets(lengths).tolist())
    ]


def _changes(region: np.ndarray, top: int, left: int, height: int) -> np.ndarray:
    """Return the start of each foreground run and of the background after it, ascending.

    They are counted down the columns of the mask, int64.
    """
    columns, rows = region.shape
    # A zero follows each column, so that runs end with it; one precedes the first.
    padded = np.zeros(1 + columns * (rows + 1), region.dtype)
    padded[1:].reshape(columns, rows + 1)[:, :rows] = region
    found = np.flatnonzero(padded[1:] != padded[:-1])
    found += found // (rows + 1) * (height - rows - 1) + (left * height + top)
    if rows == height:  # a run may go on in the next column
        whole = np.flatnonzero(found[1:-1:2] == found[2::2])
        found = np.delete(found, np.concatenate([2 * whole + 1, 2 * whole + 2]))
    return found


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
