"""`WORKDIR/metrics.jsonl`: the scalars of a run, a JSON object in each line.

    {"step": 50, "train/loss": 1.23, "train/grad_norm": 4.5, ...}
    {"step": 1000, "val/segm/AP": 0.21, ...}

The names are those of TensorBoard's curves. A number that is not finite or does not exist is null,
since JSON has no other word for it. However often a run was killed and resumed, each step is there
once.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxseg.files import atomic_write

_Record = dict[str, Any]


class MetricsFile:
    """Appends to `metrics.jsonl` for a run that starts at step `start`.

    The lines of steps after `start`, which the run repeats, are removed.
    """

    def __init__(self, path: pathlib.Path, start: int):
        self._path, self._start = path, start
        self._keep(lambda record: record["step"] <= start)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write the values after `step` steps; they are on the disk when the call returns.

        A run that resumes at an evaluation repeats it: its values replace those of before. Raises
        OSError, with the file's name, if the disk does not take them.
        """
        if step <= self._start:
            names = values.keys()
            self._keep(lambda record: record["step"] != step or not record.keys() & names)
        record = {"step": step} | {name: _finite(value) for name, value in values.items()}
        with self._name_in_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(record))

    def has(self, step: int, prefix: str) -> bool:
        """Return whether there are values after `step` steps whose names begin with `prefix`."""
        return any(
            record["step"] == step and any(name.startswith(prefix) for name in record)
            for record in filter(None, map(_record, self._lines()))
        )

    def _keep(self, is_wanted: Callable[[_Record], bool]) -> None:
        """Remove the other records, and a line that a killed process left half-written."""
        lines = self._lines()
        kept = [
            record for record in map(_record, lines) if record is not None and is_wanted(record)
        ]
        if len(kept) < len(lines):
            with self._name_in_errors(), atomic_write(self._path) as partial:
                partial.write_text("".join(map(_line, kept)), encoding="utf-8")

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines(
                keepends=True
            )
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _name_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"metrics could not be written to {self._path}: {error.strerror}"
            raise OSError(error.errno, message) from error


def _record(line: str) -> _Record | None:
    """Return the record of a line; None for one that is no whole record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if is_record and line.endswith("\n") else None


def _line(record: _Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
