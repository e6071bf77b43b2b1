"""Trainings of the toy model by the loop."""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import numpy as np
import pytest

from jaxseg.training import checkpoint, loop
from jaxseg.training.evaluator import Validation
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.training.step import init_variables
from tests.tiny import make_batch, toy_model

CONFIG = TrainConfig(
    steps=12,
    batch_size=4,
    optimizer=OptimizerConfig(learning_rate=0.05, warmup_steps=2),
    ema_decay=0.9,
    log_every=100,
    checkpoint_every=4,
)
EVALUATED = dataclasses.replace(CONFIG, eval_every=3)
SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5}
METADATA = {"experiment": {"name": "toy"}}


def batch_of(step, poisoned=(), bucket=(64, 64)):
    batch = make_batch([(64, 64)] * 4, [1, 2, 0, 3], bucket, seed=step)
    images = batch.images.astype(np.float32)
    if step in poisoned:
        images[0, 0, 0, 0] = np.nan
    return batch._replace(images=images)


@dataclasses.dataclass
class ToyData:
    """The batches of `batch_of`; `at_step[s]` is called before the batch of step s is yielded."""

    steps: int
    poisoned: object = ()
    at_step: dict = dataclasses.field(default_factory=dict)
    image_shape = (1, 64, 64, 3)
    buckets: ClassVar = ((64, 64),)
    """Those of the steps in turn."""

    def abstract_batches(self, start_step, stop_step):
        shape = partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype))
        used = self.buckets[: stop_step - start_step]
        return [shape(batch_of(0, bucket=bucket)) for bucket in used]

    def batches(self, start_step):
        for step in range(start_step, self.steps + 1):
            if step in self.at_step:
                self.at_step[step]()
            yield batch_of(step, self.poisoned, self.buckets[step % len(self.buckets)])

    def image_ids(self, step):
        return [10 * step, 10 * step + 1]


def run(workdir, config=CONFIG, poisoned=(), at_step=None, validate=None, notice=None):
    """Train the toy model and return its last state as NumPy arrays."""
    model, data = toy_model(), ToyData(config.steps, poisoned, at_step or {})
    state = loop.train(
        model,
        config,
        data,
        workdir,
        METADATA,
        initial_variables=lambda: init_variables(model, data.image_shape, config.seed),
        validate=validate,
        notice=notice,
    )
    return jax.tree.map(np.asarray, state)


def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


class SimulatedCrash(Exception):
    pass


def crash():
    raise SimulatedCrash


class Validate:
    """An evaluation with the scores of `SCORES`; it crashes at step `crash_at`."""

    def __init__(self, crash_at=None):
        self.steps, self._crash_at = [], crash_at

    def __call__(self, state, step):
        self.steps.append(step)
        if step == self._crash_at:
            crash()
        score = SCORES[step]
        return Validation(score, "segm/AP", {"segm/AP": score}, [np.zeros((8, 8, 3), np.uint8)])


def run_until(step, workdir):
    """Train until a crash just before a step."""
    with pytest.raises(SimulatedCrash):
        run(workdir, at_step={step: crash})


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def fail_writes(monkeypatch, errors):
    """Make Orbax's waits for writes raise these errors in turn; None is a success."""
    errors = iter(errors)

    def wait(self):
        error = next(errors, None)
        if error is not None:
            raise error

    monkeypatch.setattr(checkpoint._Manager, "wait_until_finished", wait)
