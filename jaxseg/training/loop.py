"""The training loop: batches in, steps done, checkpoints out.

A run is a pure function of its seed: the batch, the random keys and so the state of step s
depend on s alone. Resuming is to restore the newest state and go on from its step.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxseg.distributed import allgather_json
from jaxseg.log import say
from jaxseg.model import Model, Variables
from jaxseg.parallel import check_batch_size, pmap_step, replicate, shard_map_step, to_global
from jaxseg.training.checkpoint import Checkpoints, set_workdir_aside
from jaxseg.training.lock import workdir_lock
from jaxseg.training.nonfinite import NonFiniteSteps
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from jaxseg.training.preemption import Preempted, handle_signals, raise_on_notice
from jaxseg.training.progress import Progress
from jaxseg.training.step import Metrics, TrainState, init_variables, make_step, start_state
from jaxseg.types import Batch


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and how often to look and to save."""

    steps: int = 90_000
    batch_size: int = 16
    """Images of a step, over all devices."""
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    grad_accum_steps: int = 1
    """A device's images of a step are computed in so many pieces, one after the other, which needs
    less memory. The gradient is that of the whole (batch norm's statistics are of a piece)."""
    ema_decay: float | None = None
    """Keeps a moving average of the parameters, which is then what is evaluated."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """The transform that brings a step to the devices."""
    max_consecutive_nonfinite: int = 10
    """Steps whose loss or gradient is not finite are not applied; more in a row end the run."""
    log_every: int = 50
    eval_every: int = 0
    """Steps between evaluations on the split `val`, the best checkpoint being kept; 0 for none."""
    checkpoint_every: int = 1000
    max_to_keep: int = 3

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "grad_accum_steps", "log_every", "checkpoint_every")
        for name in (*positive, "max_to_keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} {getattr(self, name)} must be at least 1")
        for name in ("eval_every", "seed", "max_consecutive_nonfinite"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name} {getattr(self, name)} must not be negative")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"train: ema_decay {self.ema_decay} must be between 0 and 1, or None")


class TrainData(NamedTuple):
    """The batches of a run, as the loop asks for them."""

    batches: Callable[[int], Generator[Batch]]
    """This host's share of the batches from a step on."""
    image_ids: Callable[[int], Sequence[int]]
    """The images of a step's global batch."""
    image_shape: tuple[int, ...]
    """`(1, H, W, 3)` of padded images."""


class Validation(NamedTuple):
    """What an evaluation in mid-training found."""

    score: float
    """What the best checkpoint has most of."""
    figures: Mapping[str, float | None]
    pictures: Sequence[np.ndarray]
    """Some images with what was found in them, uint8 `[h, w, 3]`."""


def train(
    model: Model,
    config: TrainConfig,
    data: TrainData,
    workdir: pathlib.Path,
    experiment: Mapping[str, Any],
    *,
    pretrained: Callable[[Variables], Variables] | None = None,
    validate: Callable[[TrainState, int], Validation] | None = None,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `workdir` if there is one.

    `experiment` is stored with each checkpoint. A new run starts from the seed's random variables,
    or what `pretrained` makes of them. The checkpoint with the best score is kept as the
    workdir `WORKDIR/best`. A run that is resumed at a step whose evaluation is due, and may have
    been cut short, begins with it.
    Raises `FloatingPointError` when too many steps in a row were not finite, and `Preempted` after
    a notice; the checkpoints are good in both cases. Raises `BlockingIOError` when another training
    is at work in `workdir`.
    """
    devices = jax.device_count()
    check_batch_size(config.batch_size, devices, config.grad_accum_steps)
    workdir.mkdir(parents=True, exist_ok=True)
    step_fn = _parallel_step(model, config, devices)
    schedule = make_schedule(config.optimizer, config.steps)
    with ExitStack() as opened:
        opened.enter_context(workdir_lock(workdir))
        notice = opened.enter_context(handle_signals())
        checkpoints = opened.enter_context(Checkpoints(workdir, config.max_to_keep))
        state = _first_state(model, config, data.image_shape, workdir, checkpoints, pretrained)
        state = replicate(state, devices)
        checkpoints.check_space(state)
        start = int(state.step)
        progress = opened.enter_context(
            closing(Progress(workdir, start, config.steps, config.batch_size))
        )
        evaluations = _Evaluations(config, validate, workdir, experiment, checkpoints, progress)
        if start > 0 and evaluations.due(start):
            if notice.reached():
                raise Preempted(start, notice.reason)
            evaluations.make(state, start)
        stream = opened.enter_context(closing(data.batches(start)))
        watched = NonFiniteSteps(workdir, config.max_consecutive_nonfinite, data.image_ids)
        pending: Metrics | None = None
        for step in range(start, config.steps):
            asked = time.monotonic()
            batch = next(stream)
            waited = time.monotonic() - asked
            # Looking at the step before while this one runs keeps the device busy.
            state, metrics = step_fn(state, batch)
            if pending is not None:
                watched.look(step - 1, pending)
            pending, done = metrics, step + 1
            progress.waited_for_data(waited)
            last, leaving = done == config.steps, notice.reached()
            to_judge = evaluations.due(done)
            to_show = last or leaving or done % config.log_every == 0
            # An evaluation takes time: should it be cut short, the next start makes it up.
            to_save = last or leaving or to_judge or done % config.checkpoint_every == 0
            if to_show or to_save:
                values, pending = watched.look(step, metrics), None
            if to_show:
                progress.show(done, values, float(schedule(step)))
            # While steps fail, the state does not change: there is nothing to judge, and the
            # checkpoints from before must not make room.
            if watched.in_a_row and not (last or leaving):
                continue
            if to_save:
                checkpoints.save(done, to_global(state, devices), experiment)
            if leaving and (to_judge or not last):
                checkpoints.finish()
                raise Preempted(done, notice.reason)
            if to_judge:
                evaluations.make(state, done)
    return state


def _parallel_step(
    model: Model, config: TrainConfig, devices: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    optimizer = make_optimizer(config.optimizer, config.steps)
    step = make_step(
        model, optimizer, config.seed, pieces=config.grad_accum_steps, ema_decay=config.ema_decay
    )
    spread = pmap_step if config.parallel == "pmap" else shard_map_step
    return spread(step, devices)


def _first_state(
    model: Model,
    config: TrainConfig,
    image_shape: tuple[int, ...],
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    pretrained: Callable[[Variables], Variables] | None,
) -> TrainState:
    """The newest checkpoint's state, or that of a new run."""
    new, other_best = allgather_json(
        (checkpoints.latest_step() is None, (workdir / "best").exists())
    )[0]
    if new and other_best:
        set_workdir_aside(workdir / "best")
    variables = init_variables(model, image_shape, config.seed)
    if new and pretrained is not None:
        variables = pretrained(variables)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = start_state(variables, optimizer, ema=config.ema_decay is not None)
    if new:
        return state
    state = checkpoints.restore(state)
    say(f"going on from step {int(state.step)} of {checkpoints.folder.parent}")
    return state


@dataclasses.dataclass(frozen=True)
class _Evaluations:
    """The evaluations of a run, and the best checkpoint by them."""

    config: TrainConfig
    validate: Callable[[TrainState, int], Validation] | None
    workdir: pathlib.Path
    experiment: Mapping[str, Any]
    checkpoints: Checkpoints
    progress: Progress

    def due(self, done: int) -> bool:
        """Whether the state after `done` steps is to be evaluated."""
        every, steps = self.config.eval_every, self.config.steps
        return self.validate is not None and (done == steps or done % every == 0)

    def make(self, state: TrainState, done: int) -> None:
        """Evaluates the state after `done` steps, which is being saved, and shows the figures."""
        assert self.validate is not None
        started = time.monotonic()
        try:
            with raise_on_notice(done):
                found = self.validate(state, done)
        except Preempted:
            self.checkpoints.finish()
            raise
        self.progress.show_validation(done, found.figures, found.pictures)
        # Hosts tell Orbax's writes apart by their order: two must not go on at once.
        self.checkpoints.finish()
        shared = to_global(state, jax.device_count())
        _keep_if_best(self.workdir / "best", done, shared, self.experiment, found)
        self.progress.paused(time.monotonic() - started)


def _keep_if_best(
    folder: pathlib.Path,
    step: int,
    state: TrainState,
    experiment: Mapping[str, Any],
    found: Validation,
) -> None:
    """Saves the state as the workdir `folder` if none before had a score as high."""
    with Checkpoints(folder, keep=1) as best:
        before, latest = allgather_json((_score(best), best.latest_step()))[0]
    if before is not None and found.score <= before:
        return
    if latest is not None and (before is None or latest >= step):
        set_workdir_aside(folder)  # Orbax saves only steps later than those that are there
    with Checkpoints(folder, keep=1) as best:
        best.save(step, state, {**experiment, "best": {"step": step, "score": found.score}})
    say(f"step {step} is the best so far ({found.score:.3f}): kept in {folder}")


def _score(best: Checkpoints) -> float | None:
    """The score of the best checkpoint; None where there is none, or it cannot be read."""
    if best.latest_step() is None:
        return None
    try:
        return float(best.experiment()["best"]["score"])
    except (ValueError, KeyError, TypeError) as error:
        say(f"the best checkpoint so far is given up: {error}")
        return None
