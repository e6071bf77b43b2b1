"""Fixtures of runs of the toy model."""

import logging
import os
import signal

import pytest

from jaxseg.training import loop
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
    parallel_step = loop._parallel_step

    def arrange(step, number=signal.SIGTERM):
        def with_signal(*arguments):
            train_step = parallel_step(*arguments)

            def run_step(state, *batch_and_flag):
                if state.step == step:
                    os.kill(os.getpid(), number)
                return train_step(state, *batch_and_flag)

            return run_step

        monkeypatch.setattr(loop, "_parallel_step", with_signal)

    return arrange
