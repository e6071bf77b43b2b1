"""COCO's run-length encoding of many masks at once, without decoding any to pixels.

Terms:
    runs   lengths of alternating background and foreground, down the columns, background first
    text   the runs compressed to ASCII, as `pycocotools.mask` writes and reads them
    n      masks; texts and runs of all masks are flat arrays with n lengths (`jaxseg.data.ragged`)
    C, R   characters of all texts, runs of all masks

A character stores 6 bits as its code minus 48 ("0"). A number is a sequence of characters with 5
bits each, lowest first: bit 5 is set if another character follows, and bit 4 of the last character
is the sign. From the fourth number on, a number is the difference from the run two before
(`rleToString` in maskApi.c of https://github.com/cocodataset/cocoapi).
"""

import numpy as np

from jaxseg.data.ragged import cumsum_lists, offsets, positions, reduce_lists

_MAX_DIGITS = 6
"""Characters per number. pycocotools shifts the bits of further ones out of a C int."""
_NUMBER_LIMIT = 1 << (5 * _MAX_DIGITS - 1)
"""Numbers are smaller, so that they fit into the characters with their sign."""


def decode_runs(text: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode texts (uint8 `[C]`, lengths int64 `[n]`) to runs.

    A malformed text counts as one without runs.

    Returns:
        runs, int64 `[R]`; the number of runs of each mask, int64 `[n]`; well-formed, bool `[n]`.
    """
    code = text.astype(np.int64) - 48  # [C]
    foreign = reduce_lists(np.logical_or, (code < 0) | (code > 63), lengths)  # [n]
    is_last = (code & 32) == 0  # [C], the last character of a number
    filled = lengths > 0
    truncated = np.zeros(len(lengths), bool)  # [n], the text ends inside a number
    truncated[filled] = ~is_last[offsets(lengths)[1:][filled] - 1]
    formed = ~(foreign | truncated)
    kept = np.repeat(formed, lengths)
    code, is_last, lengths = code[kept], is_last[kept], np.where(formed, lengths, 0)

    # A number starts where the character before it is a last one. Numbers are counted as R below.
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]])) if len(code) else code  # [R]
    digits = np.diff(np.append(starts, len(code)))  # [R]
    shift = 5 * np.minimum(positions(digits), _MAX_DIGITS)  # [C]; longer numbers are refused below
    numbers = reduce_lists(np.add, (code & 31) << shift, digits)  # [R]
    # Two's complement of 5 * digits bits: a set sign bit subtracts 2 ** (5 * digits).
    sign = (code[starts + digits - 1] >> 4) & 1
    numbers -= sign << (5 * np.minimum(digits, _MAX_DIGITS))
    # Count the numbers that end within each text: the last characters up to its end, less those
    # up to its start.
    counts = np.diff(offsets(is_last)[offsets(lengths)])  # [n]

    long = reduce_lists(np.logical_or, digits > _MAX_DIGITS, counts)  # [n]
    kept, counts = np.repeat(~long, counts), counts * ~long
    return _sum_differences(numbers[kept], counts), counts, formed & ~long


def run_ends(text: bytes) -> np.ndarray:
    """Return the end of each run of one well-formed text, int64, in pixels down the columns.

    For a single text it is several times as fast as `decode_runs`.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48  # [C]
    last = np.flatnonzero(codes < 32)  # [R], index of each number's last character
    if not len(last):
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    digit = np.arange(last[-1] + 1) - np.repeat(first, digits)  # [C]
    runs = np.add.reduceat((codes[: last[-1] + 1] & 31) << (5 * digit), first)
    runs -= (codes[last] >> 4 & 1) << (5 * digits)  # two's complement
    # Sum the differences: runs 3, 5, ... start from run 1, and runs 4, 6, ... from run 2.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return np.cumsum(runs)


def _sum_differences(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Turn differences from the run two before into runs, int64 `[R]`, by sums per parity."""
    position = positions(counts)  # [R]
    # Differences start at 3 and 4: sums start from run 1 and run 2, and run 0 stands alone.
    odd, even = position % 2 == 1, (position % 2 == 0) & (position > 0)
    sums_odd = cumsum_lists(np.where(odd, numbers, 0), counts)
    sums_even = cumsum_lists(np.where(even, numbers, 0), counts)
    return np.where(odd, sums_odd, np.where(even, sums_even, numbers))


def encode_runs(runs: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode runs (int64 `[R]`, of which each mask has `counts` `[n]`) as texts (uint8 `[C]`).

    Returns the texts and the length of each, `[n]`. Raises ValueError if a run has 2**29 pixels or
    more.
    """
    two_before = np.concatenate([[0, 0], runs])[: len(runs)]
    rest = np.where(positions(counts) > 2, runs - two_before, runs).astype(np.int64)  # [R]
    if len(runs) and np.abs(rest).max() >= _NUMBER_LIMIT:
        raise ValueError(f"a run of {np.abs(runs).max()} pixels is too long for COCO's text")
    characters = np.zeros((len(runs), _MAX_DIGITS), np.uint8)
    used = np.zeros((len(runs), _MAX_DIGITS), bool)
    unfinished = np.ones(len(runs), bool)  # [R]
    for digit in range(_MAX_DIGITS):
        used[:, digit] = unfinished
        code, rest = rest & 31, rest >> 5
        # A number ends when the rest is only copies of the sign bit, which is bit 4 of the code.
        is_last = rest == np.where(code & 16, -1, 0)
        characters[:, digit] = code + np.where(is_last, 48, 48 + 32)
        unfinished = unfinished & ~is_last
    lengths = reduce_lists(np.add, used.sum(1), counts)
    return characters[used], lengths


def areas_and_boxes(
    runs: np.ndarray, counts: np.ndarray, heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each mask's pixels, int64 `[n]`, and tight `xyxy` box, int64 `[n, 4]`.

    Both are zero for an empty mask. The runs must not be negative; `heights` (`[n]`) are those of
    the images.
    """
    mask_index = np.repeat(np.arange(len(counts)), counts)  # [R]
    ends = cumsum_lists(runs, counts)
    foreground = (positions(counts) % 2 == 1) & (runs > 0)
    # F runs of foreground, each from pixel `first` to `last`, counted down the columns.
    mask_index, first, last = (  # [F]
        mask_index[foreground],
        (ends - runs)[foreground],
        ends[foreground] - 1,
    )
    height = heights[mask_index]
    left, right = first // height, last // height  # [F], columns
    # A run that continues in the next column touches the bottom row and then the top row.
    one_column = left == right
    top = np.where(one_column, first % height, 0)
    bottom = np.where(one_column, last % height + 1, height)
    run_counts = np.bincount(mask_index, minlength=len(counts))  # [n]
    boxes = [
        reduce_lists(ufunc, values, run_counts)
        for ufunc, values in (
            (np.minimum, left),
            (np.minimum, top),
            (np.maximum, right + 1),
            (np.maximum, bottom),
        )
    ]
    return reduce_lists(np.add, runs[foreground], run_counts), np.stack(boxes, axis=1)
