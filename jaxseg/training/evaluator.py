"""Evaluations during a run: when they are due, and the checkpoint with the best score."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.distributed import allgather_json, process_index
from jaxseg.parallel import to_global
from jaxseg.training.checkpoint import Checkpoints, rename_to_backup
from jaxseg.training.preemption import Preempted
from jaxseg.training.progress import Progress
from jaxseg.training.step import TrainState

_LOG = logging.getLogger(__name__)


class Validation(NamedTuple):
    """The result of an evaluation during training."""

    score: float
    """The checkpoint with the highest score is kept as the best."""
    score_name: str
    """The metric that the score is, such as segm/AP."""
    metrics: Mapping[str, float | None]
    pictures: Sequence[np.ndarray]
    """Predictions drawn on images, uint8 `[h, w, 3]`."""
    raw_metrics: Mapping[str, float | None] | None = None
    """Metrics of the parameters themselves, where `metrics` are those of their EMA."""


Validate = Callable[[TrainState, int], Validation]
"""`(state, step) -> Validation`."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates states of a run and keeps the best checkpoint.

    Args:
        steps: number of steps of the run, after which it is evaluated.
        every: steps between evaluations.
        validate: evaluates a state; None to evaluate nothing.
        workdir: the workdir of the run.
        metadata: run metadata that is stored with the best checkpoint.
        checkpoints: the checkpoints of the run.
        progress: records the metrics.
    """

    steps: int
    every: int
    validate: Validate | None
    workdir: pathlib.Path
    metadata: Mapping[str, Any]
    checkpoints: Checkpoints
    progress: Progress

    def is_due(self, done: int) -> bool:
        """Return whether the state after `done` steps is to be evaluated."""
        return self.validate is not None and (done == self.steps or done % self.every == 0)

    def is_recorded(self, done: int) -> bool:
        """Return whether the evaluation after `done` steps is recorded; a collective."""
        return allgather_json(self.progress.has_evaluation(done))[0]

    def format_best(self) -> str:
        """Return "best segm/AP 0.345 at step 800" for the best so far, "" if none; a collective."""
        if self.validate is None:
            return ""
        with Checkpoints(self.workdir / "best", read_only=True) as checkpoints:
            best = allgather_json(_read_best(checkpoints))[0]
        return f"best {best['metric']} {best['score']:.3f} at step {best['step']}" if best else ""

    def run(self, state: TrainState, done: int) -> None:
        """Evaluate the state after `done` steps, which is being saved; record the metrics.

        Raises Preempted if a notice to stop has aborted the evaluation.
        """
        assert self.validate is not None
        started = time.monotonic()
        try:
            validation = self.validate(state, done)
        except Preempted as stop:
            self.checkpoints.wait_until_finished()
            raise Preempted(stop.reason, done) from None
        # The processes match Orbax's writes by their order: two at once would be mixed up.
        self.checkpoints.wait_or_log()
        _save_if_best(
            self.workdir / "best",
            done,
            to_global(state, jax.device_count()),
            self.metadata,
            validation,
        )
        # Last, so that an evaluation that is recorded is complete.
        self.progress.show_validation(
            done, validation.metrics, validation.pictures, validation.raw_metrics
        )
        self.progress.exclude_time(time.monotonic() - started)


def _save_if_best(
    folder: pathlib.Path,
    step: int,
    state: TrainState,
    metadata: Mapping[str, Any],
    validation: Validation,
) -> None:
    """Save the state in the workdir `folder` if its score is higher than all before.

    If that fails it is logged: the state is among the run's own checkpoints.
    """
    score, name = validation.score, validation.score_name
    with Checkpoints(folder, max_to_keep=1) as best:
        previous, latest = allgather_json((_read_best(best), best.latest_step()))[0]
    if previous is not None and score <= previous["score"]:
        return
    if latest is not None and (previous is None or latest >= step):
        rename_to_backup(folder)  # Orbax saves only steps later than the existing ones
    try:
        with Checkpoints(folder, max_to_keep=1) as best:
            best.common_steps()  # after a rename, which a shared disk may show late
            found = {"step": step, "score": score, "metric": name}
            best.save(step, state, {**metadata, "best": found})
    except OSError as error:
        _LOG.warning(
            "step %d has the best %s so far (%.3f), but is not kept: %s", step, name, score, error
        )
        return
    _LOG.info("step %d has the best %s so far (%.3f): saved in %s", step, name, score, folder)


def _read_best(best: Checkpoints) -> dict[str, Any] | None:
    """Return step, score and metric of the best checkpoint; None if it is not there or unreadable.

    Process 0 logs the latter.
    """
    if best.latest_step() is None:
        return None
    try:
        found = best.metadata()["best"]
        step, score = int(found["step"]), float(found["score"])
        return {"step": step, "score": score, "metric": str(found["metric"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        if process_index() == 0:
            _LOG.warning("the best checkpoint so far cannot be read and is replaced: %s", error)
        return None
