"""What happens when a loss is not finite: the step was not applied; it is told, and counted."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxseg.distributed import process_index
from jaxseg.log import say


class NonFiniteSteps:
    """Writes `WORKDIR/nonfinite.jsonl`: a line for each skipped step, with its images' ids.

    More than `limit` in a row end the run; the checkpoints hold only states from before.
    """

    def __init__(
        self, workdir: pathlib.Path, limit: int, image_ids: Callable[[int], Sequence[int]]
    ):
        self._path, self._limit, self._image_ids = workdir / "nonfinite.jsonl", limit, image_ids
        self.in_a_row = 0
        """Steps up to the last that was looked at."""

    def look(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of a step as numbers. Raises `FloatingPointError` past the limit."""
        values = {name: float(value) for name, value in metrics.items()}
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            self.in_a_row = 0
            return values
        self.in_a_row += 1
        bad = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
        line = {"step": step, "image_ids": list(self._image_ids(step)), "not_finite": bad}
        if process_index() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)  # it may have been lost
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        named = ", ".join(f"{name} = {value}" for name, value in bad.items())
        if self.in_a_row > self._limit:
            raise FloatingPointError(
                f"step {step}: {named}; {self.in_a_row} steps in a row were not finite. None was "
                f"applied; their images are in {self._path}. A lower learning rate, a longer "
                "warm-up or a smaller clip_norm, in a new --workdir, are the usual cures."
            )
        say(f"step {step} is skipped: {named}; its images are in {self._path}")
        return values
