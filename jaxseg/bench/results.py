"""The values that the groups of measurements return, and that the report reads."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from jaxseg.bench.timing import Sample, Side

OURS = "jaxseg"
"""The side that others are compared with."""

Figures = dict[str, float | str]
"""What is known of a side beside its times, by the title of a column, with its unit."""


class Skipped(Exception):
    """Raised by a case that cannot run here, with the reason."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference between the results of two sides."""

    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Return whether the difference is within the tolerance (never if it is NaN)."""
        return self.difference <= self.tolerance


@dataclasses.dataclass
class Prepared:
    """A case that is ready to be timed."""

    sides: dict[str, Side] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figures] = dataclasses.field(default_factory=dict)
    """Of each side; a side without a call has its figures alone."""
    images: int = 0
    """Images that a call processes; 0 where images per second mean nothing."""
    flop: float = 0.0
    """Floating-point operations of jaxseg's call, for the share of the machine's speed."""
    compare: Callable[[], Iterable[Comparison]] = tuple
    """Compares the results of the sides, after they were timed."""
    close: Callable[[], Any] = lambda: None
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    """Why sides are missing."""


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row or a few of a table. `prepare` may take long, and may raise any exception."""

    name: str
    prepare: Callable[[], Prepared]


@dataclasses.dataclass
class Row:
    """The times and figures of one side of a case."""

    case: str
    side: str
    samples: list[Sample]
    figures: Figures


@dataclasses.dataclass
class GroupResult:
    """All that one group of measurements found."""

    name: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    comparisons: list[tuple[str, Comparison]] = dataclasses.field(default_factory=list)
    """Each with the name of its case."""
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    """The reasons by case."""
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    """The errors by case."""
