"""A run of the loop on the toy model: what it leaves behind, whatever happens to it."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxseg.distributed import is_process_failure
from jaxseg.training import checkpoint, lock, loop
from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from jaxseg.training.loop import TrainConfig, TrainData, Validation
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.training.preemption import Preempted
from tests.tiny import make_batch, toy_model

CONFIG = TrainConfig(
    steps=12,
    batch_size=4,
    optimizer=OptimizerConfig(learning_rate=0.05, warmup_steps=2),
    ema_decay=0.9,
    log_every=100,
    checkpoint_every=4,
)
RECORD = {"experiment": {"name": "toy"}}


def batch_of(step, poisoned=()):
    batch = make_batch([(64, 64)] * 4, [1, 2, 0, 3], seed=step)
    images = batch.images.astype(np.float32)
    if step in poisoned:
        images[0, 0, 0, 0] = np.nan
    return batch._replace(images=images)


def run(workdir, config=CONFIG, poisoned=(), at_step=None, **options):
    """Trains; `at_step[s]` is called before the batch of step s is given."""

    def batches(start):
        for step in range(start, config.steps + 1):
            if at_step and step in at_step:
                at_step[step]()
            yield batch_of(step, poisoned)

    data = TrainData(batches, lambda step: [10 * step, 10 * step + 1], (1, 64, 64, 3))
    state = loop.train(toy_model(), config, data, workdir, RECORD, **options)
    return jax.tree.map(np.asarray, state)


def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight"))


class SimulatedCrash(Exception):
    pass


def run_until(step, workdir):
    """A run that is interrupted before a step."""

    def pull():
        raise SimulatedCrash

    with pytest.raises(SimulatedCrash):
        run(workdir, at_step={step: pull})


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_saves_and_the_same_call_goes_on(tmp_path, straight, number):
    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=f"told to stop by {number.name}: saved after step 6"):
        run(tmp_path, at_step={5: lambda: os.kill(os.getpid(), number)})
    assert steps_in(tmp_path) == [4, 6]
    assert signal.getsignal(number) == before
    assert_same(run(tmp_path), straight)


def test_another_training_in_the_workdir_is_refused(tmp_path):
    code = f"import fcntl, time; f = open({str(tmp_path / 'lock')!r}, 'w')\n"
    code += "fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError, match=r"another training is at work in .* --workdir"):
            run(tmp_path)
        assert not (tmp_path / "checkpoints").exists()
    finally:
        other.kill()
        other.communicate()
    run(tmp_path)


def test_a_file_system_without_locks_is_told_of(tmp_path, straight, monkeypatch, capsys):
    def raise_if_any(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", raise_if_any)
    assert_same(run(tmp_path), straight)
    assert f"{tmp_path} cannot be locked" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
@pytest.mark.parametrize("damage", ["flipped", "emptied", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, straight, capsys, damage):
    run_until(9, tmp_path)
    newest = tmp_path / "checkpoints" / "8"
    if damage == "missing":
        shutil.rmtree(newest / "state")
    for path in (newest / "state").rglob("*") if damage != "missing" else ():
        if path.is_file() and "/d/" in str(path):  # where TensorStore keeps the numbers
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 255
            path.write_bytes(content if damage == "flipped" else b"")
    assert_same(run(tmp_path), straight)
    told = capsys.readouterr().err
    assert f"checkpoint {newest} is damaged" in told
    assert "going on from step 4" in told
    assert (tmp_path / "checkpoints" / "damaged-8").is_dir()
    assert steps_in(tmp_path) == [4, 8, 12]


def test_when_no_checkpoint_can_be_read_the_error_lists_them(tmp_path):
    run_until(9, tmp_path)
    for step in (4, 8):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "state")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: step 8: .*; step 4: "):
        run(tmp_path)


def test_hosts_agree_on_the_checkpoint_that_all_can_read(tmp_path, straight, monkeypatch, capsys):
    run_until(9, tmp_path)
    of_the_other = iter([[4, 8, 99], "it cannot be read there", None])
    monkeypatch.setattr(checkpoint, "gather", lambda value: [value, next(of_the_other)])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(straight).step == 4
    assert "8 is damaged (it cannot be read there): kept as damaged-8" in capsys.readouterr().err


def test_steps_that_are_not_finite_are_skipped_and_told(tmp_path, capsys):
    state = run(tmp_path, poisoned=(3, 4))
    assert state.step == 12
    assert np.isfinite(state.params["w"])
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [(line["step"], line["image_ids"]) for line in lines] == [(3, [30, 31]), (4, [40, 41])]
    assert "step 3 is skipped: grad_norm = nan" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_with_its_checkpoints(tmp_path, straight):
    config = dataclasses.replace(CONFIG, max_consecutive_nonfinite=2)
    with pytest.raises(FloatingPointError, match=r"step 7: .*; 3 steps in a row .* images are in"):
        run(tmp_path, config, poisoned=range(5, 12))
    assert steps_in(tmp_path) == [4]
    assert_same(run(tmp_path), straight)


def test_steps_that_fail_do_not_push_out_the_checkpoints_before(tmp_path):
    config = dataclasses.replace(
        CONFIG, max_consecutive_nonfinite=6, checkpoint_every=1, max_to_keep=2
    )
    with pytest.raises(FloatingPointError):
        run(tmp_path, config, poisoned=range(4, 12))
    assert steps_in(tmp_path) == [3, 4]


def test_steps_that_fail_are_not_judged(tmp_path):
    validate = Validate()
    run(tmp_path, JUDGED, poisoned=range(4, 8), validate=validate)
    assert validate.asked == [3, 9, 12]


def test_a_failing_disk_does_not_hide_another_error(tmp_path, monkeypatch, capsys):
    results = iter([OSError("the disk is gone")])

    def wait(self):
        result = next(results, None)
        if result is not None:
            raise result

    monkeypatch.setattr(checkpoint._Manager, "wait_until_finished", wait)
    with pytest.raises(SimulatedCrash), Checkpoints(tmp_path):
        raise SimulatedCrash
    assert "could not be written" in capsys.readouterr().err


def test_writes_that_fail_twice_in_a_row_end_the_run(tmp_path, straight, monkeypatch, capsys):
    # Waited for by us before step 1, by Orbax as it saves that, and by us before step 2.
    results = iter([OSError("the disk is gone"), None, OSError("the disk is still gone")])

    def wait(self):
        result = next(results, None)
        if result is not None:
            raise result

    monkeypatch.setattr(checkpoint._Manager, "wait_until_finished", wait)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, straight, RECORD)
        assert "could not be written" in capsys.readouterr().err
        with pytest.raises(OSError, match=r"could not be written to .*: the disk is still gone"):
            checkpoints.save(2, straight, RECORD)
        monkeypatch.undo()


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, straight, monkeypatch):
    real = shutil.disk_usage

    def full(path):
        return real(path)._replace(free=3)

    with pytest.raises(OSError, match="room for 0 MB and a checkpoint needs") as raised:
        run(tmp_path, at_step={6: lambda: monkeypatch.setattr(shutil, "disk_usage", full)})
    assert raised.value.errno == errno.ENOSPC
    assert "goes on from step 4" in str(raised.value)
    assert steps_in(tmp_path) == [4]
    with pytest.raises(OSError, match="room for"):
        run(tmp_path, at_step={4: lambda: pytest.fail("a step was spent")})
    monkeypatch.undo()
    assert_same(run(tmp_path), straight)


def test_a_workdir_that_is_lost_is_made_again(tmp_path, straight):
    workdir = tmp_path / "run"

    def lose():
        while not (workdir / "checkpoints" / "4").is_dir():  # not while it is written
            time.sleep(0.01)
        workdir.rename(tmp_path / "elsewhere")

    assert_same(run(workdir, at_step={6: lose}), straight)
    assert steps_in(workdir)[-1] == 12
    assert_same(run(workdir), straight)


SCORES = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5}
JUDGED = dataclasses.replace(CONFIG, eval_every=3)


class Validate:
    """An evaluation with the figures of `SCORES`; it fails after step `fails_at`."""

    def __init__(self, fails_at=None):
        self.asked, self._fails_at = [], fails_at

    def __call__(self, state, step):
        self.asked.append(step)
        if step == self._fails_at:
            raise SimulatedCrash
        score = SCORES[step]
        return Validation(score, {"segm/AP": score}, [np.zeros((8, 8, 3), np.uint8)])


def best_of(workdir):
    with open_checkpoints(workdir / "best") as best:
        return best.latest_step(), best.experiment()["best"]


def test_the_best_checkpoint_is_kept(tmp_path):
    validate = Validate()
    run(tmp_path, JUDGED, validate=validate)
    assert validate.asked == [3, 6, 9, 12]
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5})


@pytest.mark.parametrize("step", [6, 12])
def test_an_evaluation_that_was_cut_short_is_made_first_thing(tmp_path, straight, step):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, JUDGED, validate=Validate(fails_at=step))
    assert steps_in(tmp_path)[-1] == step
    validate = Validate()
    assert_same(run(tmp_path, JUDGED, validate=validate), straight)
    assert validate.asked == list(range(step, 13, 3))
    assert best_of(tmp_path)[0] == 6


@pytest.mark.parametrize("step", [6, 12])
def test_a_notice_does_not_wait_for_an_evaluation(tmp_path, step):
    notice = {step - 1: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    validate = Validate()
    with pytest.raises(Preempted, match=f"saved after step {step}"):
        run(tmp_path, JUDGED, at_step=notice, validate=validate)
    assert validate.asked == list(range(3, step, 3))
    run(tmp_path, JUDGED, validate=validate)
    assert validate.asked == [3, 6, 9, 12]


def test_a_notice_says_saved_only_when_it_is(tmp_path, monkeypatch):
    def fails(self):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Checkpoints, "finish", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, at_step={5: lambda: os.kill(os.getpid(), signal.SIGTERM)})


def test_a_notice_during_an_evaluation_ends_it(tmp_path, straight):
    class Told(Validate):
        def __call__(self, state, step):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(state, step)

    told = Told()
    with pytest.raises(Preempted, match="told to stop by SIGTERM: saved after step 3"):
        run(tmp_path, JUDGED, validate=told)
    assert not told.asked
    validate = Validate()
    assert_same(run(tmp_path, JUDGED, validate=validate), straight)
    assert validate.asked == [3, 6, 9, 12]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
def test_a_damaged_best_is_given_up_and_the_run_goes_on(tmp_path, straight, capsys):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, JUDGED, validate=Validate(fails_at=9))
    shutil.rmtree(tmp_path / "best" / "checkpoints" / "6" / "experiment")
    assert_same(run(tmp_path, JUDGED, validate=Validate()), straight)
    assert "the best checkpoint so far is given up" in capsys.readouterr().err
    assert best_of(tmp_path) == (12, {"step": 12, "score": 0.5})


def test_a_new_run_does_not_keep_the_best_of_another(tmp_path, capsys):
    run(tmp_path, JUDGED, validate=Validate())
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SimulatedCrash):
        run(tmp_path, JUDGED, validate=Validate(fails_at=6))
    assert f"{tmp_path / 'best'} is kept as best-1" in capsys.readouterr().err
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.2})
    with Checkpoints(tmp_path / "best-1", read_only=True) as before:
        assert before.experiment()["best"] == {"step": 6, "score": 0.5}


def test_a_better_state_of_an_earlier_step_becomes_the_best(tmp_path, monkeypatch):
    config = dataclasses.replace(JUDGED, max_to_keep=9)
    run(tmp_path, config, validate=Validate())
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5})
    for step in (4, 6, 8, 9, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    monkeypatch.setitem(SCORES, 3, 0.6)
    with pytest.raises(SimulatedCrash):
        run(tmp_path, config, validate=Validate(fails_at=6))
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.6})


def test_a_step_before_the_newest_is_not_silently_unsaved(tmp_path):
    state = run(tmp_path)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(OSError, match="step 6 was not saved"):
        checkpoints.save(6, state, RECORD)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
def test_readers_leave_a_workdir_as_it_is(tmp_path, capsys):
    state = run(tmp_path)
    half_written = tmp_path / "checkpoints" / "13.orbax-checkpoint-tmp"
    half_written.mkdir()
    shutil.rmtree(tmp_path / "checkpoints" / "12" / "state")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state).step == 8
        assert "12 is damaged" in capsys.readouterr().err
        with pytest.raises(ValueError, match=r"checkpoint .*/checkpoints/12 is damaged"):
            checkpoints.restore(state, 12)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    run(tmp_path)
    assert not half_written.exists()


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNAVAILABLE: connection reset by peer", True),
        ("RESOURCE_EXHAUSTED: out of memory", False),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_a_device_without_memory_is_no_lost_host(monkeypatch, message, lost):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert is_process_failure(jax.errors.JaxRuntimeError(message)) is lost
