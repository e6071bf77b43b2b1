"""Checkpoints of runs of the toy model: corrupt, late, half-written, and on failing disks."""

import errno
import os
import shutil
import signal
import time

import jax
import pytest

from jaxseg.training import checkpoint, loop
from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from tests.training.toy_run import (
    METADATA,
    SimulatedCrash,
    assert_same,
    fail_writes,
    run,
    run_until,
    steps_in,
)


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


def test_processes_that_start_from_different_weights_are_refused(uninterrupted, monkeypatch):
    monkeypatch.setattr(loop, "process_count", lambda: 2)
    monkeypatch.setattr(loop, "allgather_json", lambda value: [value, 0])
    with pytest.raises(ValueError, match="start from different weights"):
        loop._check_states_agree(uninterrupted)


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
    # After the rename the other process still sees step 8 once.
    other_process(monkeypatch, [4, 8], MISMATCH, None, [4, 8], [4])
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


def test_readers_wait_for_a_checkpoint_that_only_another_process_sees(
    tmp_path, uninterrupted, monkeypatch
):
    run_until(9, tmp_path / "run")
    (tmp_path / "late").mkdir()
    other_process(monkeypatch, [4, 8], [4, 8], None)

    def appear(seconds):
        if seconds:
            (tmp_path / "run" / "checkpoints").rename(tmp_path / "late" / "checkpoints")

    monkeypatch.setattr(checkpoint.time, "sleep", appear)
    with open_checkpoints(tmp_path / "late") as checkpoints:
        assert checkpoints.latest_step() == 8


def test_one_process_without_space_is_an_error_in_all(tmp_path, uninterrupted, monkeypatch):
    other_process(monkeypatch, None, 0)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(OSError, match="has 0 MB free"):
        checkpoints.save(1, uninterrupted, METADATA)


def test_process_0_decides_whether_a_step_is_saved_already(tmp_path, uninterrupted, monkeypatch):
    run_until(9, tmp_path)
    monkeypatch.setattr(checkpoint, "allgather_json", lambda value: [9, value])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, uninterrupted, METADATA)
    assert steps_in(tmp_path) == [4, 8]


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
    other_process(monkeypatch, *[steps] * len(checkpoint._RETRY_DELAYS))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(OSError, match=rf"process 0 sees 4, 8; process 1 sees {view}\).*same shared"),
    ):
        checkpoints.restore(uninterrupted)


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


def test_a_failed_save_is_not_reported_as_saved(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("the disk failed")

    monkeypatch.setattr(Checkpoints, "wait_until_finished", fail)
    with pytest.raises(OSError, match="the disk failed"):
        run(tmp_path, at_step={5: lambda: os.kill(os.getpid(), signal.SIGTERM)})


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
