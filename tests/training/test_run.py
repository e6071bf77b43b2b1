"""Runs of the loop on the toy model: interrupted, resumed, and with bad steps."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxseg.training import lock, loop
from jaxseg.training.nonfinite import NonFiniteSteps
from jaxseg.training.preemption import Preempted
from jaxseg.training.progress import Progress
from jaxseg.training.train_step import TrainStep
from tests.training.toy_run import (
    CONFIG,
    SimulatedCrash,
    assert_same,
    crash,
    run,
    steps_in,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_the_same_call_resumes(
    tmp_path, uninterrupted, monkeypatch, signal_in_step, number
):
    before = signal.getsignal(number)
    signal_in_step(5, number)
    with pytest.raises(Preempted, match=f"stopped by {number.name}: saved after step 6"):
        run(tmp_path)
    assert steps_in(tmp_path) == [4, 6]
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    assert_same(run(tmp_path), uninterrupted)


def test_another_training_in_the_workdir_is_refused(tmp_path):
    code = f"import fcntl, time; f = open({str(tmp_path / 'lock')!r}, 'w')\n"
    code += "fcntl.flock(f, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError, match=r"another training is running in .* --workdir"):
            run(tmp_path)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        other.kill()
        other.communicate()
    run(tmp_path)


def test_reading_the_lock_file_does_not_unlock_the_workdir(tmp_path):
    def read_and_train():
        (tmp_path / "lock").read_bytes()
        with pytest.raises(BlockingIOError, match="another training is running"):
            run(tmp_path)

    run(tmp_path, at_step={5: read_and_train})


def test_a_workdir_whose_name_is_not_utf8_is_refused_before_the_first_step(tmp_path):
    workdir = tmp_path / os.fsdecode(b"r\xe9sum\xe9")
    with pytest.raises(ValueError, match="is not UTF-8: rename it"):
        run(workdir, at_step={0: lambda: pytest.fail("a batch was made")})


def test_a_file_system_without_locks_is_logged(tmp_path, uninterrupted, monkeypatch, log):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    assert_same(run(tmp_path), uninterrupted)
    assert f"{tmp_path} cannot be locked" in log()


def test_steps_that_are_not_finite_are_skipped_and_logged(tmp_path, log):
    state = run(tmp_path, poisoned=(3, 4))
    assert state.step == 12
    assert np.isfinite(state.params["w"])
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [(line["step"], line["image_ids"]) for line in lines] == [(3, [30, 31]), (4, [40, 41])]
    assert "step 3 skipped: grad_norm = nan" in log()


def test_too_many_consecutive_nonfinite_steps_end_the_run(tmp_path, uninterrupted):
    config = dataclasses.replace(CONFIG, max_consecutive_nonfinite=2)
    with pytest.raises(
        FloatingPointError, match=r"step 7: .*; 3 consecutive steps .* image ids are in"
    ):
        run(tmp_path, config, poisoned=range(5, 12))
    assert steps_in(tmp_path) == [4]
    assert_same(run(tmp_path), uninterrupted)


def test_skipped_steps_do_not_delete_the_checkpoints_before_them(tmp_path):
    config = dataclasses.replace(
        CONFIG, max_consecutive_nonfinite=6, checkpoint_every=1, max_to_keep=2
    )
    with pytest.raises(FloatingPointError):
        run(tmp_path, config, poisoned=range(4, 12))
    assert steps_in(tmp_path) == [3, 4]


def test_a_signal_while_data_stalls_saves_the_last_step(tmp_path, uninterrupted):
    def stall():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

    with pytest.raises(Preempted, match="stopped by SIGTERM: saved after step 5"):
        run(tmp_path, at_step={5: stall})
    assert steps_in(tmp_path) == [4, 5]
    assert_same(run(tmp_path), uninterrupted)


def test_a_signal_before_the_first_step_saves_nothing(tmp_path, uninterrupted):
    stop = {0: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Preempted, match="run the same command again"):
        run(tmp_path, at_step=stop)
    assert steps_in(tmp_path) == []
    assert_same(run(tmp_path), uninterrupted)


def test_of_several_processes_one_that_waits_for_data_stops_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "process_count", lambda: 2)
    monkeypatch.setattr(loop, "STALL_SECONDS", 0.1)

    def stall():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)

    with pytest.raises(Preempted, match="saved after step 4") as stopped:
        run(tmp_path, at_step={6: stall})
    assert stopped.value.alone
    assert steps_in(tmp_path) == [4]


def test_metrics_are_read_and_logged_while_the_next_step_runs(tmp_path, monkeypatch):
    events, train_step, check = [], TrainStep.__call__, NonFiniteSteps.check
    show = Progress.show

    def start(self, state, *arguments):
        result = train_step(self, state, *arguments)
        events.append("start")
        return result

    def read(self, step, metrics):
        events.append(f"read {step}")
        return check(self, step, metrics)

    def log(self, step, *arguments):
        events.append(f"log {step}")
        show(self, step, *arguments)

    monkeypatch.setattr(TrainStep, "__call__", start)
    monkeypatch.setattr(NonFiniteSteps, "check", read)
    monkeypatch.setattr(Progress, "show", log)
    run(tmp_path, dataclasses.replace(CONFIG, steps=5, log_every=2, checkpoint_every=4))
    assert events == [
        "start", "start", "read 0", "start", "read 1", "log 2",
        "start", "read 2", "read 3", "log 4",  # a checkpoint
        "start", "read 4", "log 5",
    ]  # fmt: skip


def test_an_error_of_the_data_does_not_hide_the_step_before(tmp_path):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, dataclasses.replace(CONFIG, log_every=1), poisoned=(4,), at_step={5: crash})
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5]
    skipped = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in skipped] == [4]


def test_training_outside_the_main_thread(tmp_path, uninterrupted):
    states = []
    thread = threading.Thread(target=lambda: states.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert_same(*states, uninterrupted)
