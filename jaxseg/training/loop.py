"""The training loop: batches in, steps done, checkpoints out.

A run is a pure function of its seed: the batch, the random keys and so the state of step s
depend on s alone. Resuming is to restore the newest state and go on from its step.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import jax

from jaxseg.model import Model, Variables
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from jaxseg.training.parallel import check_batch_size, parallel_step, replicate
from jaxseg.training.progress import Progress, say
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
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3


def train(
    model: Model,
    config: TrainConfig,
    batches: Callable[[int], Generator[Batch]],
    image_shape: tuple[int, ...],
    workdir: pathlib.Path,
    experiment: Mapping[str, Any],
    pretrained: Callable[[Variables], Variables] | None = None,
) -> TrainState:
    """Trains to the last step, from the newest checkpoint in `workdir` if there is one.

    `batches(step)` gives the batches from that step on. `experiment` is stored with each
    checkpoint. A new run starts from the seed's random variables, or what `pretrained` makes of
    them.
    Raises `FloatingPointError` at the first loss that is not finite; the checkpoints hold only
    states from before.
    """
    devices = jax.local_device_count()
    check_batch_size(config.batch_size, devices)
    optimizer = make_optimizer(config.optimizer, config.steps)
    step_fn = parallel_step(make_step(model, optimizer, config.seed), devices)

    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints, ExitStack() as opened:
        variables = init_variables(model, image_shape, config.seed)
        if checkpoints.latest_step() is None and pretrained is not None:
            variables = pretrained(variables)
        state = replicate(start_state(variables, optimizer), devices)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
            say(f"going on from step {int(state.step)} of {workdir}")
        start = int(state.step)
        progress = Progress(workdir, start, config.steps, config.batch_size)
        schedule = make_schedule(config.optimizer, config.steps)
        stream = opened.enter_context(closing(batches(start)))
        pending: Metrics | None = None
        for step in range(start, config.steps):
            batch = next(stream)
            # Looking at the step before while this one runs keeps the device busy.
            state, metrics = step_fn(state, batch)
            if pending is not None:
                check_finite(step - 1, pending)
            pending = metrics
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                progress.show(done, check_finite(step, metrics), float(schedule(step)))
            if done % config.checkpoint_every == 0 or done == config.steps:
                check_finite(step, metrics)
                checkpoints.save(done, state, experiment)
        progress.close()
    return state


def check_finite(step: int, metrics: Metrics) -> dict[str, float]:
    """The metrics as numbers; an error that names the step and those that are not finite."""
    values = {name: float(value) for name, value in metrics.items()}
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        named = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise FloatingPointError(
            f"step {step}: {named}. The newest checkpoint is from before this step; a lower "
            "learning rate, a longer warm-up or a smaller clip_norm are the usual cures."
        )
    return values
