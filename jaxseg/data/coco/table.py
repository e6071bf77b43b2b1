"""One list of a COCO file as columns, and the defects found in it.

Terms:
    row       an entry's place in its list
    column    a field of all rows as one array; rows without a usable value hold 0
"""

import reprlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxseg.data.issues import Issue

_ABSENT: Any = object()
_LARGEST_ID = 1 << 53
"""Ids are below it, so that programs that read JSON's numbers as floats agree on them."""


class Table:
    """`entries` of the list `name` (images, annotations, categories) of a file.

    `item` is the word for one of them, with which the names of the kinds of defects begin.
    """

    def __init__(self, file: str, name: str, item: str, entries: Sequence[Any]):
        self.file, self.name, self.item = file, name, item
        self.issues: list[Issue] = []
        self._rows: list[int] = []  # of each defect
        self.is_object = [type(entry) is dict for entry in entries]
        self.entries: Sequence[dict[str, Any]] = entries
        if not all(self.is_object):
            self.entries = [entry if type(entry) is dict else {} for entry in entries]
            for row, entry in enumerate(entries):
                if not self.is_object[row]:
                    self.add(row, f"{item}-not-object", "", f"{show(entry)} is not a JSON object")

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, row: int, kind: str, field: str, message: str) -> None:
        number = self.entries[row].get("id")
        where = f"{self.item} id {number}" if type(number) is int else f"{self.name}[{row}]"
        self.issues.append(Issue(kind, self.file, where, field, message))
        self._rows.append(row)

    def add_all(self, rows: np.ndarray, kind: str, field: str, says: str) -> None:
        """The same defect of many rows; `{}` in `says` becomes the field's value."""
        for row in rows.tolist():
            self.add(row, kind, field, says.format(show(self.entries[row].get(field))))

    def rows_of(self, kinds: Collection[str] | None = None) -> np.ndarray:
        """Which rows have a defect of these kinds (without `kinds`, of any): bool `[rows]`."""
        found = np.zeros(len(self), bool)
        pairs = zip(self._rows, self.issues, strict=True)
        found[[row for row, issue in pairs if kinds is None or issue.kind in kinds]] = True
        return found

    def values(self, field: str) -> list[Any]:
        """The field of every row; rows that lack it are defects, and give None."""
        values = [entry.get(field, _ABSENT) for entry in self.entries]
        if any(value is _ABSENT for value in values):
            for row, value in enumerate(values):
                if value is _ABSENT:
                    values[row] = None
                    if self.is_object[row]:
                        self.add(row, f"{self.item}-field", field, f"there is no {field}")
        return values

    def whole_numbers(self, field: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The field as int64, and which rows have it as a whole number."""
        values = self.values(field)
        good = np.ones(len(values), bool)
        if not set(map(type, values)) <= {int} or max(map(abs, values), default=0) >= _LARGEST_ID:
            for row, value in enumerate(values):
                good[row] = type(value) is int and abs(value) < _LARGEST_ID
                if not good[row] and field in self.entries[row]:
                    message = f"{field} {show(value)} is not a whole number below 2**53"
                    self.add(row, kind, field, message)
            values = [value if fine else 0 for value, fine in zip(values, good, strict=True)]
        return np.asarray(values, np.int64), good

    def check_unique(self, values: Sequence[Any], good: np.ndarray, field: str) -> None:
        """Later rows with the value of an earlier one are defects."""
        chosen = [value for value, fine in zip(values, good.tolist(), strict=True) if fine]
        if len(set(chosen)) == len(chosen):
            return
        kind = f"{self.item}-{'id' if field == 'id' else 'name'}-duplicate"
        seen: dict[Any, int] = {}
        for row in np.flatnonzero(good).tolist():
            first = seen.setdefault(values[row], row)
            if first != row:
                message = f"{field} {values[row]!r} is that of {self.name}[{first}] too"
                self.add(row, kind, field, f"{message} (this is {self.name}[{row}])")


def show(value: Any) -> str:
    """The value as it stands in messages: short, however large or deep it is."""
    return "none" if value is _ABSENT else reprlib.repr(value)


def find_rows(wanted: np.ndarray, values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The first usable row that holds each wanted value, or -1: int64 `[wanted]`."""
    rows = np.flatnonzero(usable)
    if not len(rows):
        return np.full(len(wanted), -1)
    unique, first = np.unique(values[rows], return_index=True)
    spot = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
    return np.where(unique[spot] == wanted, rows[first[spot]], -1)
