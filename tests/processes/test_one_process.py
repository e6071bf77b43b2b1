"""A training in a process of its own: killed, stopped by signals, and resumed."""

import os
import random
import re
import signal
import subprocess
import time

import pytest

from tests.processes.launch import (
    EXPERIMENT,
    STEPS,
    assert_ended_the_same,
    assert_params_are_close,
    newest_checkpoint,
    start,
    wait_for_checkpoint,
)

KILLS = 50


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_never_stopped(tmp_path, file, uninterrupted):
    rng = random.Random(0)
    reached = []
    for kill in range(KILLS):
        process = start(file, tmp_path)
        if kill % 2:  # just after the next checkpoint, while another one is being written
            wait_for_checkpoint(process, tmp_path, newest_checkpoint(tmp_path))
            time.sleep(rng.uniform(0, 0.2))
        else:  # any moment: imports, restoring, compiling, the first steps
            time.sleep(rng.uniform(0, 12))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        reached.append(newest_checkpoint(tmp_path))
    print(f"{KILLS} kills, newest checkpoints {reached}")
    process = start(file, tmp_path)
    process.communicate()
    assert process.returncode == 0
    if reached[-1] == STEPS:
        pytest.fail("the run ended before the last kill: make it longer")
    assert_ended_the_same(file, tmp_path, uninterrupted)


@pytest.mark.slow
def test_sigterm_saves_in_time_and_the_same_command_resumes(tmp_path, file, uninterrupted):
    process = start(file, tmp_path)
    wait_for_checkpoint(process, tmp_path, 3)
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    print(f"ended {time.monotonic() - signalled:.1f} s after SIGTERM")
    assert time.monotonic() - signalled < 30
    assert process.returncode == 75
    step = int(re.search(r"stopped by SIGTERM: saved after step (\d+)", out)[1])
    assert newest_checkpoint(tmp_path) == step
    process = start(file, tmp_path)
    out, _ = process.communicate()
    assert f"resuming from step {step}" in out
    assert_ended_the_same(file, tmp_path, uninterrupted)


HANGING = """
import os, time
from jaxseg.data import shapes

read = shapes.ShapesSource.__getitem__

def hang_once_told(self, index):
    while os.path.exists({flag!r}):
        time.sleep(0.1)
    return read(self, index)

shapes.ShapesSource.__getitem__ = hang_once_told
"""


@pytest.mark.slow
def test_sigterm_saves_in_time_while_the_data_hangs(tmp_path):
    flag, file, workdir = tmp_path / "hang", tmp_path / "experiment.py", tmp_path / "run"
    file.write_text(HANGING.format(flag=str(flag)) + EXPERIMENT)
    process = start(file, workdir)
    wait_for_checkpoint(process, workdir, 3)
    flag.touch()
    time.sleep(3)  # until all batches made before are used up
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    out, _ = process.communicate(timeout=60)
    print(f"ended {time.monotonic() - signalled:.1f} s after SIGTERM")
    assert process.returncode == 75, out
    assert time.monotonic() - signalled < 30
    step = int(re.search(r"stopped by SIGTERM: saved after step (\d+)", out)[1])
    assert newest_checkpoint(workdir) == step


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_devices(tmp_path, sampling_file, of_one_process):
    process = start(sampling_file, tmp_path, devices=2)
    wait_for_checkpoint(process, tmp_path, 1)
    process.kill()
    process.communicate()
    process = start(sampling_file, tmp_path)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "resuming from step" in out
    assert_params_are_close(tmp_path, of_one_process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_data_workers_survive_a_signal_to_the_whole_process_group(tmp_path, file, number):
    flags = ["--data.num-workers", "1"]
    process = start(file, tmp_path, *flags, start_new_session=True)
    wait_for_checkpoint(process, tmp_path, 3)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert f"stopped by {number.name}: saved after step" in out
    assert_group_ends(process.pid)


@pytest.mark.slow
def test_data_workers_end_when_their_training_is_killed(tmp_path, file):
    process = start(file, tmp_path, "--data.num-workers", "1", start_new_session=True)
    wait_for_checkpoint(process, tmp_path, 3)
    assert len(members(process.pid)) > 1
    process.kill()
    process.communicate(timeout=60)
    assert_group_ends(process.pid)


def members(group):
    """Return the ids of the running processes of a process group."""
    found = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True).stdout
    rows = [line.split() for line in found.splitlines()[1:]]
    return [int(pid) for pid, pgid, stat in rows if int(pgid) == group and not stat.startswith("Z")]


def assert_group_ends(group, seconds=15):
    until = time.monotonic() + seconds
    while members(group) and time.monotonic() < until:
        time.sleep(0.1)
    left = members(group)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
