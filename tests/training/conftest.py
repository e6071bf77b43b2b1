"""Fixtures of runs of the toy model."""

import logging
import os
import signal

import pytest

from jaxseg.training.train_step import TrainStep
from tests.training.toy_run import run


@pytest.fixture(autouse=True)
def log(caplog):
    """The text of the log so far, of level INFO and above."""
    caplog.set_level(logging.INFO, "jaxseg")
    return lambda: caplog.text


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The last state of a run that nothing interrupts."""
    return run(tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture
def signal_in_step(monkeypatch):
    """Return a function by which a run gets a signal while it makes a step."""
    train_step = TrainStep.__call__

    def arrange(step, number=signal.SIGTERM):
        def run_step(self, state, *batch_and_flag):
            if state.step == step:
                os.kill(os.getpid(), number)
            return train_step(self, state, *batch_and_flag)

        monkeypatch.setattr(TrainStep, "__call__", run_step)

    return arrange
