"""A run of a few steps that the tests of the commands share."""

import dataclasses

import jax
import numpy as np

from jaxseg import predictor
from jaxseg.data import DataConfig, Shapes
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from tests.tiny import tiny_config

SHAPES = Shapes(size=64, train_images=8, val_images=5)
EXPERIMENT = Experiment(
    model=dataclasses.replace(tiny_config(norm="sync_batch"), num_classes=5),
    data=DataConfig(source=SHAPES, buckets=((64, 64),), max_objects=6),
    train=TrainConfig(
        steps=6,
        batch_size=2,
        # A constant rate, so that runs of other lengths use the same compiled programs.
        optimizer=OptimizerConfig(warmup_steps=2, learning_rate=0.01, schedule="constant"),
        log_every=2,
        checkpoint_every=2,
    ),
)
EXPERIMENT_FILE = "from tests.commands.tiny_run import EXPERIMENT as experiment"
"""The text of an experiment file."""


def final_state(workdir):
    """Return the step and the variables of the newest checkpoint."""
    trained = predictor.restore(workdir)
    return trained.step, jax.tree.map(np.asarray, trained.variables)
