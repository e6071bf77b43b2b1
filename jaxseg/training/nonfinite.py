"""The check for steps whose loss or gradient is not finite, which the step itself did not apply."""

import json
import logging
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxseg.distributed import process_index

_LOG = logging.getLogger(__name__)


class NonFiniteSteps:
    """Counts skipped steps and records each one in `WORKDIR/nonfinite.jsonl`.

    Args:
        workdir: the workdir of the run.
        max_consecutive: more skipped steps in a row than this are an error. The checkpoints hold
            only states from before them.
        image_ids: returns the image ids of a step's global batch.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        max_consecutive: int,
        image_ids: Callable[[int], Sequence[int]],
    ):
        self._path, self._max_consecutive = workdir / "nonfinite.jsonl", max_consecutive
        self._image_ids = image_ids
        self.consecutive = 0
        """Skipped steps in a row, up to the last step checked."""

    def check(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of a step as floats, and record the step if it was skipped.

        Raises FloatingPointError if more than `max_consecutive` steps in a row were skipped.
        """
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            self.consecutive = 0
            return values
        self.consecutive += 1
        nonfinite = {n: str(value) for n, value in values.items() if not math.isfinite(value)}
        reason = ", ".join(f"{name} = {value}" for name, value in nonfinite.items())
        if process_index() == 0:
            self._record(step, nonfinite)
        if self.consecutive > self._max_consecutive:
            raise FloatingPointError(
                f"step {step}: {reason}; {self.consecutive} consecutive steps were not finite and "
                f"were not applied; their image ids are in {self._path}. Try a lower "
                "learning_rate, a longer warm-up or a smaller grad_clip_norm, with a new --workdir"
            )
        if process_index() == 0:
            _LOG.warning("step %d skipped: %s; image ids are in %s", step, reason, self._path)
        return values

    def _record(self, step: int, nonfinite: Mapping[str, str]) -> None:
        line = {
            "step": step,
            "image_ids": list(self._image_ids(step)),
            "not_finite": dict(nonfinite),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
