"""The workdir of one short training, made once for all tests of the commands."""

import pytest

from jaxseg.commands import train as train_command
from tests.commands.tiny_run import EXPERIMENT


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """The workdir of `EXPERIMENT` after its last step; tests must not change its checkpoints."""
    path = tmp_path_factory.mktemp("run")
    train_command.train(EXPERIMENT, path)
    return path
