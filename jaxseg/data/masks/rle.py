"""COCO's run-length encoding of masks, many at once, without decoding any to pixels.

Terms:
    runs   lengths of alternating background and foreground, down the columns, background first
    text   the runs compressed to ASCII, as `pycocotools.mask` writes and reads them
    lists  of texts or runs: one flat array and the length of each (`jaxseg.data.ragged`)

In text a number is characters of 5 bits each, lowest first, counted from "0"; bit 5 says that
another one follows, bit 4 of the last is the sign. From the fourth number on it is the difference
from the run two before (`rleToString` in maskApi.c of https://github.com/cocodataset/cocoapi).
"""

import numpy as np

from jaxseg.data.ragged import cumsum_lists, offsets, places, reduce_lists

_LONGEST = 6
"""Characters of a number. pycocotools shifts further ones out of a C int."""
_LARGEST = 1 << (5 * _LONGEST - 2)


def decode_runs(text: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """The runs (int64) of texts (uint8), the number of each one's runs, and which are well-formed.

    A text that is not well-formed counts as one without runs.
    """
    code = text.astype(np.int64) - 48
    stray = reduce_lists(np.logical_or, (code < 0) | (code > 63), lengths)
    ends = (code & 32) == 0
    filled = lengths > 0
    cut = np.zeros(len(lengths), bool)
    cut[filled] = ~ends[offsets(lengths)[1:][filled] - 1]
    good = ~(stray | cut)
    kept = np.repeat(good, lengths)
    code, ends, lengths = code[kept], ends[kept], np.where(good, lengths, 0)

    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]])) if len(code) else code
    digits = np.diff(np.append(starts, len(code)))
    shift = 5 * np.minimum(places(digits), _LONGEST)  # longer ones are refused below
    numbers = reduce_lists(np.add, (code & 31) << shift, digits)
    sign = (code[starts + digits - 1] >> 4) & 1
    numbers -= sign << (5 * np.minimum(digits, _LONGEST))
    counts = np.diff(offsets(ends)[offsets(lengths)])

    long = reduce_lists(np.logical_or, digits > _LONGEST, counts)
    kept = np.repeat(~long, counts)
    return _sum_differences(numbers[kept], counts * ~long), counts * ~long, good & ~long


def run_ends(text: bytes) -> np.ndarray:
    """Where each run of a well-formed text ends, int64, counted in pixels down the columns. For one
    text alone this is several times as fast as `decode_runs`."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
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


def _sum_differences(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    place = places(counts)
    odd, even = place % 2 == 1, (place % 2 == 0) & (place > 0)
    sums_odd = cumsum_lists(np.where(odd, numbers, 0), counts)
    sums_even = cumsum_lists(np.where(even, numbers, 0), counts)
    return np.where(odd, sums_odd, np.where(even, sums_even, numbers))


def encode_runs(runs: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts (uint8, and the length of each) of runs. None may be 2**28 pixels or more."""
    if len(runs) and np.abs(runs).max() >= _LARGEST:
        raise ValueError(f"a run of {np.abs(runs).max()} pixels is too long for COCO's text")
    before = np.concatenate([[0, 0], runs])[: len(runs)]
    left = np.where(places(counts) > 2, runs - before, runs).astype(np.int64)
    characters = np.zeros((len(runs), _LONGEST), np.uint8)
    used = np.zeros((len(runs), _LONGEST), bool)
    more = np.ones(len(runs), bool)
    for digit in range(_LONGEST):
        used[:, digit] = more
        code, left = left & 31, left >> 5
        ended = left == np.where(code & 16, -1, 0)
        characters[:, digit] = code + np.where(ended, 48, 80)
        more = more & ~ended
    lengths = reduce_lists(np.add, used.sum(1), counts)
    return characters[used], lengths


def areas_and_boxes(
    runs: np.ndarray, counts: np.ndarray, heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each mask, int64 `[n]`, and its `xyxy` box, int64 `[n, 4]`, zeros if it is empty.

    The runs must not be negative; `heights` (`[n]`) are those of the images.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    ends = cumsum_lists(runs, counts)
    seen = (places(counts) % 2 == 1) & (runs > 0)
    owner, first, last = owner[seen], (ends - runs)[seen], ends[seen] - 1
    height = heights[owner]
    left, right = first // height, last // height
    one_column = left == right
    top = np.where(one_column, first % height, 0)
    bottom = np.where(one_column, last % height + 1, height)
    pieces = np.bincount(owner, minlength=len(counts))
    boxes = [
        reduce_lists(ufunc, values, pieces)
        for ufunc, values in (
            (np.minimum, left),
            (np.minimum, top),
            (np.maximum, right + 1),
            (np.maximum, bottom),
        )
    ]
    return reduce_lists(np.add, runs[seen], pieces), np.stack(boxes, axis=1)
