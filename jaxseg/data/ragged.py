"""Operations on many short lists at once, stored as one flat array and the length of each list.

A NumPy call on the flat array replaces one call per list: for hundreds of thousands of lists it is
a hundred times as fast.

Terms:
    lengths  int64 [n], the length of each list
    flat     [sum(lengths)], the elements of all lists, one list after the other
    offsets  int64 [n + 1]; list i is flat[offsets[i] : offsets[i + 1]]
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Return the start of each list in the flat array, then its end: int64 `[n + 1]`."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def flatten_texts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of all texts, uint8, and the offsets of each, int64 `[n + 1]`."""
    encoded = [text.encode() for text in texts]
    lengths = np.asarray([len(text) for text in encoded], np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets(lengths)


def flatten_numbers(
    lists: Sequence[Any], types: frozenset[type] = frozenset((int, float))
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flatten lists of Python numbers, and report which of them are valid.

    An invalid list counts as empty: a value that is no list, a list with an element of a type
    outside `types`, or a list with an int beyond float64.

    Returns:
        flat, float64; lengths, int64 `[n]`; valid, bool `[n]`.
    """
    valid = np.ones(len(lists), bool)
    # One pass over all elements accepts a file without errors, the usual case.
    if not (_all_lists(lists) and set(map(type, itertools.chain.from_iterable(lists))) <= types):
        valid[:] = [_has_types(numbers, types) for numbers in lists]
        lists = [numbers if good else [] for numbers, good in zip(lists, valid, strict=True)]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    try:
        flat = np.fromiter(itertools.chain.from_iterable(lists), np.float64, int(lengths.sum()))
    except OverflowError:
        finite = [[] if _overflows(numbers) else numbers for numbers in lists]
        flat, lengths, _ = flatten_numbers(finite, types)
        valid &= ~np.asarray([_overflows(numbers) for numbers in lists], bool)
    return flat, lengths, valid


def _all_lists(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {list}


def _has_types(numbers: Any, types: frozenset[type]) -> bool:
    return type(numbers) is list and set(map(type, numbers)) <= types


def _overflows(numbers: Sequence[Any]) -> bool:
    try:
        np.fromiter(numbers, np.float64, len(numbers))
    except OverflowError:
        return True
    return False


def reduce_lists(ufunc: np.ufunc, flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return `ufunc.reduce` of each list, `[n]`; 0 for empty lists."""
    filled = lengths > 0
    result = np.zeros(len(lengths), flat.dtype)
    if filled.any():
        # reduceat reduces from each start to the next, and gives flat[start] where they are equal:
        # empty lists are left out.
        result[filled] = ufunc.reduceat(flat, offsets(lengths)[:-1][filled])
    return result


def cumsum_lists(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the cumulative sums within each list, flat."""
    sums = offsets(flat)  # [len(flat) + 1], over all lists
    before_list = sums[offsets(lengths)[:-1]]  # [n], the sum of all earlier lists
    return sums[1:] - np.repeat(before_list, lengths)


def positions(lengths: np.ndarray) -> np.ndarray:
    """Return each element's index in its list, counted from 0, flat."""
    return np.arange(lengths.sum()) - np.repeat(offsets(lengths)[:-1], lengths)
