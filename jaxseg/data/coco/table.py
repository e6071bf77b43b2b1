"""One list of a COCO file as columns, and the issues found in it.

Terms:
    row       an entry's index in its list
    column    one field of all rows as an array; rows without a valid value hold 0
"""

import reprlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxseg.data.issues import Issue

_ABSENT: Any = object()
_ID_LIMIT = 1 << 53
"""Ids are smaller, so that programs that read JSON numbers as floats agree on them."""


class Table:
    """The list `name` (images, annotations, categories) of a file, and its issues.

    `item` (image, annotation, category) is one entry; the kinds of its issues start with it.
    Entries that are not JSON objects are issues, and count as empty objects.
    """

    def __init__(self, file: str, name: str, item: str, entries: Sequence[Any]):
        self.file, self.name, self.item = file, name, item
        self.issues: list[Issue] = []
        self._issue_rows: list[int] = []  # the row of each issue
        self.is_object = [type(entry) is dict for entry in entries]
        self.entries: Sequence[dict[str, Any]] = entries
        if not all(self.is_object):
            self.entries = [entry if type(entry) is dict else {} for entry in entries]
            for row, entry in enumerate(entries):
                if not self.is_object[row]:
                    message = f"{shorten(entry)} is not a JSON object"
                    self.add(row, f"{item}-not-object", "", message)

    def __len__(self) -> int:
        return len(self.entries)

    def where(self, row: int) -> str:
        """Return how issues name a row: by its id if it has one."""
        entry_id = self.entries[row].get("id")
        return f"{self.item} id {entry_id}" if type(entry_id) is int else f"{self.name}[{row}]"

    def add(self, row: int, kind: str, field: str, message: str) -> None:
        """Add an issue of one row."""
        self.issues.append(Issue(kind, self.file, self.where(row), field, message))
        self._issue_rows.append(row)

    def add_all(self, rows: np.ndarray, kind: str, field: str, template: str) -> None:
        """Add one issue for each of several rows; `{}` in `template` is the field's value."""
        for row in rows.tolist():
            self.add(row, kind, field, template.format(shorten(self.entries[row].get(field))))

    def has_issue(self, kinds: Collection[str] | None = None) -> np.ndarray:
        """Return which rows have an issue of these kinds, or of any: bool `[rows]`."""
        found = np.zeros(len(self), bool)
        pairs = zip(self._issue_rows, self.issues, strict=True)
        found[[row for row, issue in pairs if kinds is None or issue.kind in kinds]] = True
        return found

    def issues_of(self, rows: np.ndarray) -> list[Issue]:
        """Return the issues of some rows (bool `[rows]`)."""
        pairs = zip(self._issue_rows, self.issues, strict=True)
        return [issue for row, issue in pairs if rows[row]]

    def issues_by_row(self) -> list[tuple[int, Issue]]:
        """Return all issues, each behind its row."""
        return list(zip(self._issue_rows, self.issues, strict=True))

    def values(self, field: str) -> list[Any]:
        """Return the field of every row; add an issue for each row without it, which gives None."""
        values = [entry.get(field, _ABSENT) for entry in self.entries]
        if any(value is _ABSENT for value in values):
            for row, value in enumerate(values):
                if value is _ABSENT:
                    values[row] = None
                    if self.is_object[row]:
                        self.add(row, f"{self.item}-field", field, f"there is no {field}")
        return values

    def integers(self, field: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the field as int64 `[rows]`, and which rows are valid, bool `[rows]`.

        Adds an issue of `kind` for each value that is not a whole number.
        """
        values = self.values(field)
        valid = np.ones(len(values), bool)
        # `type(value) is int`, not isinstance, which accepts bool.
        if not set(map(type, values)) <= {int} or max(map(abs, values), default=0) >= _ID_LIMIT:
            for row, value in enumerate(values):
                valid[row] = type(value) is int and abs(value) < _ID_LIMIT
                if not valid[row] and field in self.entries[row]:
                    message = f"{field} {shorten(value)} is not a whole number below 2**53"
                    self.add(row, kind, field, message)
            values = [value if ok else 0 for value, ok in zip(values, valid, strict=True)]
        return np.asarray(values, np.int64), valid

    def check_unique(self, values: Sequence[Any], valid: np.ndarray, field: str) -> None:
        """Add an issue for each valid row with the value of an earlier one."""
        compared = [value for value, ok in zip(values, valid.tolist(), strict=True) if ok]
        if len(set(compared)) == len(compared):
            return
        kind = f"{self.item}-{'id' if field == 'id' else 'name'}-duplicate"
        first_row: dict[Any, int] = {}
        for row in np.flatnonzero(valid).tolist():
            first = first_row.setdefault(values[row], row)
            if first != row:
                message = f"{field} {values[row]!r} is that of {self.name}[{first}] too"
                self.add(row, kind, field, f"{message} (this is {self.name}[{row}])")


def shorten(value: Any) -> str:
    """Return the text of a value for a message, cut if it is long or deeply nested."""
    return reprlib.repr(value)


def find_rows(queries: np.ndarray, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the first valid row that holds each query, or -1: int64 `[queries]`."""
    rows = np.flatnonzero(valid)
    if not len(rows):
        return np.full(len(queries), -1)
    unique, first = np.unique(values[rows], return_index=True)
    index = np.minimum(np.searchsorted(unique, queries), len(unique) - 1)
    return np.where(unique[index] == queries, rows[first[index]], -1)
