"""Runs of the loop on the toy model: interrupted, resumed, with failing disks and bad steps."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from jaxseg import distributed
from jaxseg.distributed import ProcessLostError, is_process_failure
from jaxseg.training import checkpoint, lock, loop
from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from jaxseg.training.loop import Validation
from jaxseg.training.preemption import Preempted, gather_unless_stopped, handle_signals
from tests.training.toy_run import CONFIG, METADATA, SimulatedCrash, crash, run, steps_in


@pytest.fixture(autouse=True)
def log(caplog):
    """The text of the log so far, of level INFO and above."""
    caplog.set_level(logging.INFO, "jaxseg")
    return lambda: caplog.text


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The last state of a run that nothing interrupts."""
    return run(tmp_path_factory.mktemp("uninterrupted"))


def run_until(step, workdir):
    """Train until a crash just before a step."""
    with pytest.raises(SimulatedCrash):
        run(workdir, at_step={step: crash})


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
@pytest.mark.parametrize("damage", ["flipped", "emptied", "missing"])
def test_a_corrupt_checkpoint_is_logged_and_the_previous_used(tmp_path, uninterrupted, log, damage):
    run_until(9, tmp_path)
    newest = tmp_path / "checkpoints" / "8"
    if damage == "missing":
        shutil.rmtree(newest / "state")
    for path in (newest / "state").rglob("*") if damage != "missing" else ():
        if path.is_file() and "/d/" in str(path):  # where TensorStore keeps the numbers
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 255
            path.write_bytes(content if damage == "flipped" else b"")
    assert_same(run(tmp_path), uninterrupted)
    assert f"checkpoint {newest} is corrupt" in log()
    assert "resuming from step 4" in log()
    assert (tmp_path / "checkpoints" / "corrupt-8").is_dir()
    assert steps_in(tmp_path) == [4, 8, 12]


def test_a_state_of_another_checksum_is_corrupt_even_if_it_can_be_read(
    tmp_path, uninterrupted, log
):
    """Only the checksum can tell a whole state that another step wrote."""
    run_until(9, tmp_path)
    states = [tmp_path / "checkpoints" / str(step) / "state" for step in (4, 8)]
    shutil.rmtree(states[1])
    shutil.copytree(*states)
    assert_same(run(tmp_path), uninterrupted)
    assert f"checkpoint {states[1].parent} is corrupt (checksum mismatch)" in log()
    assert "resuming from step 4" in log()


def test_when_no_checkpoint_can_be_read_the_error_lists_them(tmp_path):
    run_until(9, tmp_path)
    for step in (4, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "state")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: step 8: .*; step 4: "):
        run(tmp_path)


MISMATCH = {"reason": "checksum mismatch", "corrupt": True}


def other_process(monkeypatch, *values):
    """Pretend that there is a second process, which passes these values to the collectives."""
    remaining = iter(values)
    monkeypatch.setattr(checkpoint, "allgather_json", lambda value: [value, next(remaining)])
    monkeypatch.setattr(checkpoint.time, "sleep", lambda seconds: None)


def test_processes_agree_on_a_checkpoint_that_all_can_read(
    tmp_path, uninterrupted, monkeypatch, log
):
    run_until(9, tmp_path)
    other_process(monkeypatch, [4, 8], MISMATCH, None)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(uninterrupted).step == 4
    assert "8 is corrupt (checksum mismatch): renamed to corrupt-8" in log()


def test_processes_agree_that_the_requested_checkpoint_is_corrupt(
    tmp_path, uninterrupted, monkeypatch
):
    run_until(9, tmp_path)
    other_process(monkeypatch, [4, 8], MISMATCH)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoints/8 is corrupt \(checksum mismatch\)"),
    ):
        checkpoints.restore(uninterrupted, 8)


def test_processes_wait_until_all_see_the_newest_checkpoint(tmp_path, uninterrupted, monkeypatch):
    run_until(9, tmp_path)
    other_process(monkeypatch, [], [4], [4, 8], None)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(uninterrupted).step == 8


def test_a_run_that_only_another_process_sees_is_not_started_again(
    tmp_path, uninterrupted, monkeypatch
):
    run_until(9, tmp_path)
    monkeypatch.setattr(loop, "allgather_json", lambda value: [None, value])
    assert_same(run(tmp_path), uninterrupted)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        ValueError(
            'PERMISSION_DENIED: Error opening "d/0": [OS error 13: EACCES Permission denied]'
        ),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_for_now_is_left_as_it_is(
    tmp_path, uninterrupted, monkeypatch, error
):
    run_until(9, tmp_path)

    def fail(self, step, **items):
        raise error

    monkeypatch.setattr(Checkpoints, "_read", fail)
    for step in (None, 8):
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(OSError, match=r"checkpoints/8 cannot be read \(.*run the same command"),
        ):
            checkpoints.restore(uninterrupted, step)
    assert steps_in(tmp_path) == [4, 8]
    monkeypatch.undo()
    assert_same(run(tmp_path), uninterrupted)


@pytest.mark.parametrize(("steps", "view"), [([], "none"), ([4], "4"), ([4, 8, 99], "4, 8, 99")])
def test_when_processes_keep_seeing_different_checkpoints_each_view_is_reported(
    tmp_path, uninterrupted, monkeypatch, steps, view
):
    run_until(9, tmp_path)
    other_process(monkeypatch, *[steps] * len(checkpoint._DELAYS))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(OSError, match=rf"process 0 sees 4, 8; process 1 sees {view}\).*same shared"),
    ):
        checkpoints.restore(uninterrupted)


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


def test_skipped_steps_are_not_evaluated(tmp_path):
    validate = Validate()
    run(tmp_path, EVALUATED, poisoned=range(4, 8), validate=validate)
    assert validate.steps == [3, 9, 12]


def fail_writes(monkeypatch, errors):
    """Make Orbax's waits for writes raise these errors in turn; None is a success."""
    errors = iter(errors)

    def wait(self):
        error = next(errors, None)
        if error is not None:
            raise error

    monkeypatch.setattr(checkpoint._Manager, "wait_until_finished", wait)


def test_a_failing_disk_does_not_hide_another_error(tmp_path, monkeypatch, log):
    fail_writes(monkeypatch, [OSError("the disk failed")])
    with pytest.raises(SimulatedCrash), Checkpoints(tmp_path):
        raise SimulatedCrash
    assert "could not be written" in log()


def test_two_failed_writes_in_a_row_end_the_run(tmp_path, uninterrupted, monkeypatch, log):
    # `save` waits before step 1, Orbax waits as it saves step 1, `save` waits before step 2.
    errors = [OSError("the disk failed"), None, OSError("the disk failed again")]
    fail_writes(monkeypatch, errors)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, uninterrupted, METADATA)
        assert "could not be written" in log()
        with pytest.raises(OSError, match=r"could not be written to .*: the disk failed again"):
            checkpoints.save(2, uninterrupted, METADATA)
        monkeypatch.undo()


def test_a_failed_write_during_an_evaluation_is_logged_like_any_other(
    tmp_path, uninterrupted, monkeypatch, log
):
    def fail_once(state, step):
        if step == 3:
            fail_writes(monkeypatch, [OSError("the disk failed")])
        else:
            monkeypatch.undo()
        return Validation(0.5, {}, [])

    assert_same(run(tmp_path, EVALUATED, validate=fail_once), uninterrupted)
    assert "could not be written" in log()


def test_a_best_checkpoint_that_cannot_be_saved_is_logged(
    tmp_path, uninterrupted, monkeypatch, log
):
    save = Checkpoints.save

    def fail_for_best(self, step, state, metadata):
        if self.folder.parent.name == "best":
            raise OSError("the disk failed")
        save(self, step, state, metadata)

    monkeypatch.setattr(Checkpoints, "save", fail_for_best)
    assert_same(run(tmp_path, EVALUATED, validate=Validate()), uninterrupted)
    assert "step 6 is the best so far (0.500), but is not kept: the disk failed" in log()


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, uninterrupted, monkeypatch):
    real = shutil.disk_usage

    def full(path):
        return real(path)._replace(free=3)

    with pytest.raises(OSError, match="0 MB free and a checkpoint needs") as raised:
        run(tmp_path, at_step={6: lambda: monkeypatch.setattr(shutil, "disk_usage", full)})
    assert raised.value.errno == errno.ENOSPC
    assert "resumes from step 4" in str(raised.value)
    assert steps_in(tmp_path) == [4]
    with pytest.raises(OSError, match="0 MB free"):
        run(tmp_path, at_step={4: lambda: pytest.fail("a step was made")})
    monkeypatch.undo()
    assert_same(run(tmp_path), uninterrupted)


def test_a_workdir_that_is_moved_away_is_made_again(tmp_path, uninterrupted):
    workdir = tmp_path / "run"

    def move_away():
        while not (workdir / "checkpoints" / "4").is_dir():  # not while it is written
            time.sleep(0.01)
        workdir.rename(tmp_path / "elsewhere")

    assert_same(run(workdir, at_step={6: move_away}), uninterrupted)
    assert steps_in(workdir)[-1] == 12
    assert_same(run(workdir), uninterrupted)


SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5}
EVALUATED = dataclasses.replace(CONFIG, eval_every=3)


class Validate:
    """An evaluation with the scores of `SCORES`; it crashes at step `crash_at`."""

    def __init__(self, crash_at=None):
        self.steps, self._crash_at = [], crash_at

    def __call__(self, state, step):
        self.steps.append(step)
        if step == self._crash_at:
            crash()
        score = SCORES[step]
        return Validation(score, {"segm/AP": score}, [np.zeros((8, 8, 3), np.uint8)])


def best_of(workdir):
    with open_checkpoints(workdir / "best") as best:
        return best.latest_step(), best.metadata()["best"]


def test_the_best_checkpoint_is_kept(tmp_path):
    validate = Validate()
    run(tmp_path, EVALUATED, validate=validate)
    assert validate.steps == [3, 6, 9, 12]
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5})


@pytest.mark.parametrize("step", [6, 12])
def test_an_aborted_evaluation_is_repeated_on_resume(tmp_path, uninterrupted, step):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, EVALUATED, validate=Validate(crash_at=step))
    assert steps_in(tmp_path)[-1] == step
    validate = Validate()
    assert_same(run(tmp_path, EVALUATED, validate=validate), uninterrupted)
    assert validate.steps == list(range(step, 13, 3))
    assert best_of(tmp_path)[0] == 6


@pytest.mark.parametrize("step", [6, 12])
def test_a_signal_skips_the_evaluation(tmp_path, monkeypatch, signal_in_step, step):
    signal_in_step(step - 1)
    validate = Validate()
    with pytest.raises(Preempted, match=f"saved after step {step}"):
        run(tmp_path, EVALUATED, validate=validate)
    assert validate.steps == list(range(3, step, 3))
    monkeypatch.undo()
    run(tmp_path, EVALUATED, validate=validate)
    assert validate.steps == [3, 6, 9, 12]


def test_a_failed_save_is_not_reported_as_saved(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("the disk failed")

    monkeypatch.setattr(Checkpoints, "wait_until_finished", fail)
    with pytest.raises(OSError, match="the disk failed"):
        run(tmp_path, at_step={5: lambda: os.kill(os.getpid(), signal.SIGTERM)})


def interrupted_evaluations(notice):
    """Return a `validate` that gets a signal; it computes as the processes of a run do."""

    def scores():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation was not cut off")

    return lambda state, step: gather_unless_stopped(notice, scores)


def test_a_signal_during_an_evaluation_aborts_it(tmp_path, uninterrupted):
    with (
        handle_signals() as notice,
        pytest.raises(Preempted, match="stopped by SIGTERM: saved after step 3"),
    ):
        run(tmp_path, EVALUATED, validate=interrupted_evaluations(notice), notice=notice)
    validate = Validate()
    assert_same(run(tmp_path, EVALUATED, validate=validate), uninterrupted)
    assert validate.steps == [3, 6, 9, 12]


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
    with pytest.raises(Preempted, match="nothing to save"):
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


def test_training_outside_the_main_thread(tmp_path, uninterrupted):
    states = []
    thread = threading.Thread(target=lambda: states.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert_same(*states, uninterrupted)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
def test_a_corrupt_best_checkpoint_is_replaced(tmp_path, uninterrupted, log):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, EVALUATED, validate=Validate(crash_at=9))
    shutil.rmtree(tmp_path / "best" / "checkpoints" / "6" / "metadata")
    assert_same(run(tmp_path, EVALUATED, validate=Validate()), uninterrupted)
    assert "the best checkpoint so far cannot be read and is replaced" in log()
    assert best_of(tmp_path) == (12, {"step": 12, "score": 0.5})


def test_a_new_run_renames_the_best_checkpoint_of_a_previous_run(tmp_path, log):
    run(tmp_path, EVALUATED, validate=Validate())
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SimulatedCrash):
        run(tmp_path, EVALUATED, validate=Validate(crash_at=6))
    assert f"{tmp_path / 'best'} is renamed to best-1" in log()
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.2})
    with Checkpoints(tmp_path / "best-1", read_only=True) as before:
        assert before.metadata()["best"] == {"step": 6, "score": 0.5}


def test_a_better_state_of_an_earlier_step_becomes_the_best(tmp_path, monkeypatch):
    config = dataclasses.replace(EVALUATED, max_to_keep=9)
    run(tmp_path, config, validate=Validate())
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5})
    for step in (4, 6, 8, 9, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    monkeypatch.setitem(SCORES, 3, 0.6)
    with pytest.raises(SimulatedCrash):
        run(tmp_path, config, validate=Validate(crash_at=6))
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.6})


def test_a_step_before_the_newest_cannot_be_saved(tmp_path):
    state = run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(OSError, match="step 6 was not saved"):
        checkpoints.save(6, state, METADATA)


def test_half_written_checkpoints_are_deleted_before_anything_is_written(tmp_path):
    half_written = [tmp_path / "checkpoints" / f"{n}.orbax-checkpoint-tmp" for n in range(500)]
    for folder in half_written:
        (folder / "state").mkdir(parents=True)
    with Checkpoints(tmp_path):
        assert not [folder for folder in half_written if folder.exists()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
def test_readers_change_nothing_in_a_workdir(tmp_path, log):
    state = run(tmp_path)
    half_written = tmp_path / "checkpoints" / "13.orbax-checkpoint-tmp"
    half_written.mkdir()
    shutil.rmtree(tmp_path / "checkpoints" / "12" / "state")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state).step == 8
        assert "12 is corrupt" in log()
        with pytest.raises(ValueError, match=r"checkpoint .*/checkpoints/12 is corrupt"):
            checkpoints.restore(state, 12)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    run(tmp_path)
    assert not half_written.exists()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("UNAVAILABLE: connection reset by peer", True),
        ("RESOURCE_EXHAUSTED: out of memory", False),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_a_device_without_memory_is_no_process_failure(monkeypatch, message, expected):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert is_process_failure(jax.errors.JaxRuntimeError(message)) is expected


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_a_process_lost_in_an_exchange_is_a_process_failure(monkeypatch, error):
    def lost(array):
        raise error("INVALID_ARGUMENT: Connection closed by peer [127.0.0.1]:1\nmore")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lost)
    with pytest.raises(ProcessLostError, match="closed by peer") as raised:
        distributed.allgather_json("x")
    assert is_process_failure(raised.value)
