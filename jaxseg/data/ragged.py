"""Lists of different lengths as one flat array and the length of each.

What is done to hundreds of thousands of short lists is done to the flat array at once; a call of
NumPy for each of them takes a hundred times as long.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Where each list begins in the flat array, and its end: int64 `[n + 1]`."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def flatten_numbers(
    lists: Sequence[Any], kinds: frozenset[type] = frozenset((int, float))
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of many lists (float64), the lengths (int64 `[n]`), and which could be read.

    A list that holds anything but numbers of the Python types `kinds`, or that is no list, counts
    as empty. So does one with an int beyond float64.
    """
    readable = np.ones(len(lists), bool)
    if not (_all_lists(lists) and set(map(type, itertools.chain.from_iterable(lists))) <= kinds):
        readable[:] = [_readable(numbers, kinds) for numbers in lists]
        lists = [numbers if good else [] for numbers, good in zip(lists, readable, strict=True)]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    count = int(lengths.sum())
    try:
        flat = np.fromiter(itertools.chain.from_iterable(lists), np.float64, count)
    except OverflowError:
        small = [[] if _overflows(numbers) else numbers for numbers in lists]
        flat, lengths, _ = flatten_numbers(small, kinds)
        readable &= ~np.asarray([_overflows(numbers) for numbers in lists], bool)
    return flat, lengths, readable


def _all_lists(lists: Sequence[Any]) -> bool:
    return set(map(type, lists)) <= {list}


def _readable(numbers: Any, kinds: frozenset[type]) -> bool:
    return type(numbers) is list and set(map(type, numbers)) <= kinds


def _overflows(numbers: Sequence[Any]) -> bool:
    try:
        np.fromiter(numbers, np.float64, len(numbers))
    except OverflowError:
        return True
    return False


def reduce_lists(ufunc: np.ufunc, flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`ufunc.reduce` of each list, `[n]`; empty ones give 0."""
    filled = lengths > 0
    result = np.zeros(len(lengths), flat.dtype)
    if filled.any():
        result[filled] = ufunc.reduceat(flat, offsets(lengths)[:-1][filled])
    return result


def cumsum_lists(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The sums within each list up to and with each of its numbers, flat."""
    sums = offsets(flat)
    return sums[1:] - np.repeat(sums[offsets(lengths)[:-1]], lengths)


def places(lengths: np.ndarray) -> np.ndarray:
    """Each number's place in its list, counted from 0, flat."""
    return np.arange(lengths.sum()) - np.repeat(offsets(lengths)[:-1], lengths)
