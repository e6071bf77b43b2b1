"""Experiments and finished runs that tests of processes share."""

import pytest

from tests.processes.launch import EXPERIMENT, SAMPLING, STARTED, start


@pytest.fixture(scope="session")
def sampling_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampling") / "experiment.py"
    path.write_text(EXPERIMENT + SAMPLING)
    return path


@pytest.fixture(scope="session")
def of_one_process(sampling_file, tmp_path_factory):
    """The workdir of the run that samples everything, by one process with one device."""
    workdir = tmp_path_factory.mktemp("one_process")
    process = start(sampling_file, workdir)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return workdir


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="session")
def uninterrupted(file, tmp_path_factory):
    """The workdir of a run without interruptions."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(file, workdir)
    process.communicate()
    assert process.returncode == 0
    return workdir


@pytest.fixture(autouse=True)
def none_is_left():
    """Kill what a test that failed has left running, so that it disturbs no other test."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
        process.stdout.close()
