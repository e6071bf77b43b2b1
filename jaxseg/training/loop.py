"""The training loop: restore or start, then batch, step, log, save, evaluate until the last step.

A run is a pure function of its seed: the batch, the random keys and therefore the state of step s
depend on s alone. To resume is to restore the newest state and continue from its step.
"""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, NamedTuple, NoReturn, Protocol, runtime_checkable

import jax

from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.model import Model, Variables
from jaxseg.parallel import check_batch_size, pmap_step, replicate, shard_map_step, to_global
from jaxseg.training.checkpoint import Checkpoints, checksum, rename_to_backup
from jaxseg.training.compilations import CompilationCounter
from jaxseg.training.evaluator import Evaluator, Validate
from jaxseg.training.lock import workdir_lock
from jaxseg.training.nonfinite import NonFiniteSteps
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from jaxseg.training.preemption import Preempted, PreemptionNotice, handle_signals
from jaxseg.training.progress import Progress
from jaxseg.training.step import (
    GradReduceDtype,
    Metrics,
    TrainState,
    init_state,
    make_step,
    share_notice,
    start_state,
)
from jaxseg.training.train_step import TrainStep
from jaxseg.types import Batch, padded_shape

_LOG = logging.getLogger(__name__)
STALL_SECONDS = 10.0
"""Time that one of several processes still waits for its batch after a notice to stop; then it ends
alone. With the batch it reaches the step after which all stop."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop."""

    steps: int = 90_000
    """Steps of the run (Detectron2 SOLVER.MAX_ITER)."""
    batch_size: int = 16
    """Images in each step, over all devices (Detectron2 SOLVER.IMS_PER_BATCH)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    """Seed of the initial variables, the order of images, augmentation and sampling."""
    grad_accum_steps: int = 1
    """Microbatches per step, one after the other, to save memory; batch norm sees one at a time."""
    grad_reduce_dtype: GradReduceDtype = "float32"
    """Dtype in which the gradients of several devices are added. "bfloat16" sends half as much
    between them, and rounds each device's gradients and their sums to 8 bits."""
    ema_decay: float | None = None
    """Decay of an exponential moving average (EMA) of the parameters, which is evaluated in their
    place; None for none."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """JAX transform that runs a step on all devices."""
    max_consecutive_nonfinite: int = 10
    """Steps in a row that may be skipped because their loss or gradient is not finite."""
    log_every: int = 50
    """Steps between progress lines and TensorBoard points."""
    eval_every: int = 0
    """Steps between evaluations on the split val; the best checkpoint is kept. 0 for none."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    max_to_keep: int = 3
    """Number of checkpoints to keep, the newest ones."""

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


@runtime_checkable
class TrainData(Protocol):
    """The training batches of a run, such as `jaxseg.data.TrainPipeline`."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return `(1, H, W, 3)` of a padded image, to initialise the model with."""
        ...

    def abstract_batches(self, start_step: int, stop_step: int) -> Sequence[Batch]:
        """Return the shapes of this process's batches of some steps, one for each bucket."""
        ...

    def batches(self, start_step: int) -> Generator[Batch]:
        """Yield this process's share of the batches from a step on."""
        ...

    def image_ids(self, step: int) -> Sequence[int]:
        """Return the image ids of a step's global batch."""
        ...


def abstract_state(model: Model, config: TrainConfig, image_shape: tuple[int, ...]) -> TrainState:
    """Return the shapes and dtypes of a run's state; nothing is compiled or computed."""
    optimizer, ema = make_optimizer(config.optimizer, config.steps), config.ema_decay is not None
    return jax.eval_shape(lambda: init_state(model, optimizer, image_shape, config.seed, ema=ema))


def train(
    model: Model,
    config: TrainConfig,
    data: TrainData,
    workdir: pathlib.Path,
    metadata: Mapping[str, Any],
    *,
    initial_variables: Callable[[], Variables],
    validate: Validate | None = None,
    notice: PreemptionNotice | None = None,
) -> TrainState:
    """Train to the last step, from the newest checkpoint in `workdir` if there is one.

    A run that is resumed at a step whose evaluation is due starts with the evaluation, since it
    may have been aborted; a finished run only if the evaluation is not recorded.

    Args:
        model: the model.
        config: the settings of the loop.
        data: the batches.
        workdir: the folder for checkpoints and logs. `WORKDIR/best` is a second workdir, which
            holds the checkpoint with the best score.
        metadata: run metadata that is stored with each checkpoint; JSON values.
        initial_variables: returns the variables of a new run; not called on resume.
        validate: evaluates a state, every `config.eval_every` steps and after the last. It raises
            Preempted when it is to stop: `jaxseg.training.preemption.run_unless_stopped`.
        notice: the notice to stop; None to handle signals while the loop runs.

    Raises:
        FloatingPointError: more than `config.max_consecutive_nonfinite` steps in a row were not
            finite. The checkpoints hold states from before them.
        Preempted: a notice to stop arrived; the state is saved.
        BlockingIOError: another training is running in `workdir`.
        ValueError: the batch size does not divide over the devices, or the name of `workdir` is
            not UTF-8.
    """
    devices = jax.device_count()
    check_batch_size(config.batch_size, devices, config.grad_accum_steps)
    _check_name(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    train_step = _train_step(model, config, devices)
    with ExitStack() as stack:
        stack.enter_context(workdir_lock(workdir))
        compilations = stack.enter_context(CompilationCounter())
        notice = notice or stack.enter_context(handle_signals())
        checkpoints = stack.enter_context(Checkpoints(workdir, config.max_to_keep))
        state = _restore(checkpoints, model, config, data.image_shape)
        if state is None:
            state = _start(model, config, workdir, initial_variables)
        _check_states_agree(state)
        state = replicate(state, devices)
        checkpoints.check_space(state)
        start = int(state.step)
        progress = stack.enter_context(
            closing(Progress(workdir, start, config.steps, config.batch_size))
        )
        evaluator = Evaluator(
            steps=config.steps,
            every=config.eval_every,
            validate=validate,
            workdir=workdir,
            metadata=metadata,
            checkpoints=checkpoints,
            progress=progress,
        )
        finished = start == config.steps
        done_before = finished and evaluator.is_recorded(start)
        if start > 0 and evaluator.is_due(start) and not done_before:
            evaluator.run(state, start)
        batches = stack.enter_context(closing(data.batches(start)))
        nonfinite = NonFiniteSteps(workdir, config.max_consecutive_nonfinite, data.image_ids)
        steps = _Steps(
            config=config,
            train_step=train_step,
            abstract_batches=data.abstract_batches(start, config.steps),
            batches=batches,
            notice=notice,
            nonfinite=nonfinite,
            progress=progress,
            checkpoints=checkpoints,
            metadata=metadata,
            evaluator=evaluator,
            compilations=compilations,
        )
        state = steps.run(state, start)
    _log_end(config.steps, evaluator.format_best(), workdir, already=finished)
    if process_index() == 0 and not finished:
        _LOG.info("%s", compilations.count())
    return state


def _log_end(steps: int, best: str, workdir: pathlib.Path, *, already: bool) -> None:
    """Log that the run is finished, with the best score, once everything is on the disk."""
    verb, note = ("was finished already", ": nothing to train") if already else ("finished", "")
    if process_index() == 0:
        _LOG.info("%s", f"{verb}: {steps} steps, {best + ', ' if best else ''}in {workdir}{note}")


def _check_states_agree(state: TrainState) -> None:
    """Raise ValueError unless all processes start from the same arrays."""
    if process_count() > 1 and len(set(allgather_json(checksum(state)))) > 1:
        raise ValueError(
            "the processes start from different weights. The workdir, and the file that the run "
            "starts from (--pretrained), must be the same on all"
        )


class _Pending(NamedTuple):
    """A step that is perhaps still being computed.

    To read its metrics is to wait for it, so they are read while the next step runs.
    """

    step: int
    metrics: Metrics
    learning_rate: Any | None
    """Of a step that is logged."""


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The steps of a run, and what is due after each: a progress line, a checkpoint, the end."""

    config: TrainConfig
    train_step: TrainStep
    abstract_batches: Sequence[Batch]
    batches: Iterator[Batch]
    notice: PreemptionNotice
    nonfinite: NonFiniteSteps
    progress: Progress
    checkpoints: Checkpoints
    metadata: Mapping[str, Any]
    evaluator: Evaluator
    compilations: CompilationCounter

    def run(self, state: TrainState, start: int) -> TrainState:
        """Return the state after the last step."""
        started = time.monotonic()
        self._compile(state)
        pending: _Pending | None = None
        buckets: set[tuple[int, ...]] = set()
        for step in range(start, self.config.steps):
            batch = self._next_batch(step, state, pending)
            bucket, compiled = padded_shape(batch.images), self.compilations.count_in_thread()
            state, metrics, noticed = self.train_step(state, batch, bool(self.notice.reason))
            again = self.compilations.count_in_thread().since(compiled)
            if again.programs and bucket in buckets:
                _LOG.warning("step %d: %s, although its bucket had been compiled", step + 1, again)
            buckets.add(bucket)
            if step == start:
                self.progress.show_first_step(step + 1, metrics["loss"], started)
            if pending is not None:
                self._read(pending)
            pending = self._after_step(step, state, metrics, self.notice.reached(noticed))
        return state

    def _compile(self, state: TrainState) -> None:
        """Compile the step for all buckets, so that it fails now if it does, and stalls no later.

        A single process stops between two buckets after a notice, at its first batch.
        """
        for number, batch in enumerate(self.abstract_batches, start=1):
            if self.notice.reason and process_count() == 1:
                return
            bucket = padded_shape(batch.images)
            self.progress.show_compilation(bucket, number, len(self.abstract_batches))
            self.train_step.compile(state, batch)

    def _read(self, pending: _Pending) -> None:
        """Wait for a step, check its metrics, and log them if that is due."""
        values = self.nonfinite.check(pending.step, pending.metrics)
        if pending.learning_rate is not None:
            self.progress.show(pending.step + 1, values, float(pending.learning_rate))

    def _next_batch(self, step: int, state: TrainState, pending: _Pending | None) -> Batch:
        """Return the batch of a step; if a notice aborts the wait for it, save and stop.

        The step before is checked and logged if the batch cannot be made.
        """
        wait_start = time.monotonic()
        try:
            with self.notice.raising(after=0.0 if process_count() == 1 else STALL_SECONDS):
                batch = next(self.batches)
        except Preempted as stop:
            if pending is not None:
                self._read(pending)
            self._stop_waiting(step, state, stop.reason)
        except Exception:
            if pending is not None:  # the error must not hide the step before
                self._read(pending)
            raise
        self.progress.add_data_wait(time.monotonic() - wait_start)
        return batch

    def _stop_waiting(self, step: int, state: TrainState, reason: str) -> NoReturn:
        """Save the state after `step` steps and raise Preempted.

        Several processes can only save together, and the others wait for this one inside a step:
        the newest checkpoint must do.
        """
        if process_count() > 1:
            raise Preempted(reason, self.checkpoints.latest_step(), alone=True) from None
        if step == 0:
            raise Preempted(reason) from None
        self.checkpoints.save(step, state, self.metadata)
        self.checkpoints.wait_until_finished()
        raise Preempted(reason, step) from None

    def _after_step(
        self, step: int, state: TrainState, metrics: Metrics, stopping: bool
    ) -> _Pending | None:
        """Save, evaluate and stop as is due; return what is still to be read of the step."""
        config, done = self.config, step + 1
        last, eval_due = done == config.steps, self.evaluator.is_due(done)
        log_due = last or stopping or done % config.log_every == 0
        # Computed now, since it would wait for the next step if that were under way.
        rate = make_schedule(config.optimizer, config.steps)(step) if log_due else None
        pending = _Pending(step, metrics, rate)
        # Saved before it is evaluated: if the evaluation is aborted, the next start repeats it.
        if not (last or stopping or eval_due or done % config.checkpoint_every == 0):
            return pending
        self._read(pending)
        # Skipped steps leave the state as it was: there is nothing new to evaluate, and saving
        # it would delete the checkpoints from before.
        if self.nonfinite.consecutive and not (last or stopping):
            return None
        self.checkpoints.save(done, to_global(state, jax.device_count()), self.metadata)
        if stopping and (eval_due or not last):
            self.checkpoints.wait_until_finished()
            raise Preempted(self.notice.reason, done)
        if eval_due:
            self.evaluator.run(state, done)
        return None


def _check_name(workdir: pathlib.Path) -> None:
    """Raise ValueError for a name that is not UTF-8, which Orbax could not save to."""
    try:
        str(workdir.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of --workdir {str(workdir)!r} is not UTF-8: rename it"
        ) from error


def _train_step(model: Model, config: TrainConfig, devices: int) -> TrainStep:
    """Return the step of a global batch on all devices."""
    step = make_step(
        model,
        make_optimizer(config.optimizer, config.steps),
        config.seed,
        grad_accum_steps=config.grad_accum_steps,
        ema_decay=config.ema_decay,
        grad_reduce_dtype=config.grad_reduce_dtype,
    )
    transform = pmap_step if config.parallel == "pmap" else shard_map_step
    return TrainStep(transform(share_notice(step), devices))


def _restore(
    checkpoints: Checkpoints, model: Model, config: TrainConfig, image_shape: tuple[int, ...]
) -> TrainState | None:
    """Return the newest saved state, or None for a new run."""
    # A shared disk may show a new checkpoint to some processes late.
    if all(step is None for step in allgather_json(checkpoints.latest_step())):
        return None
    state = checkpoints.restore(abstract_state(model, config, image_shape))
    if int(state.step) < config.steps:
        _LOG.info("resuming from step %d of %s", int(state.step), checkpoints.folder.parent)
    return state


def _start(
    model: Model,
    config: TrainConfig,
    workdir: pathlib.Path,
    initial_variables: Callable[[], Variables],
) -> TrainState:
    """Return the state of a new run; rename the best checkpoint of a previous one, if any."""
    if allgather_json((workdir / "best").exists())[0]:
        rename_to_backup(workdir / "best")
    optimizer = make_optimizer(config.optimizer, config.steps)
    return start_state(initial_variables(), optimizer, ema=config.ema_decay is not None)
