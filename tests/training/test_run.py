"""A run of the loop on the toy model: what it leaves behind, whatever happens to it."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
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


class PulledPlug(Exception):
    pass


def run_until(step, workdir):
    """A run that is interrupted before a step."""

    def pull():
        raise PulledPlug

    with pytest.raises(PulledPlug):
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


def test_steps_that_are_not_finite_are_skipped_and_told(tmp_path, capsys):
    state = run(tmp_path, poisoned=(3, 4))
    assert state.step == 12
    assert np.isfinite(state.params["w"])
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [(line["step"], line["image_ids"]) for line in lines] == [(3, [30, 31]), (4, [40, 41])]
    assert "step 3 is skipped: grad_norm = nan" in capsys.readouterr().err


def test_too_many_in_a_row_end_the_run_with_its_checkpoints(tmp_path, straight):
    config = dataclasses.replace(CONFIG, skipped_in_a_row=2)
    with pytest.raises(FloatingPointError, match=r"step 7: .*; 3 steps in a row .* images are in"):
        run(tmp_path, config, poisoned=range(5, 12))
    assert steps_in(tmp_path) == [4]
    assert_same(run(tmp_path), straight)


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, straight, monkeypatch):
    real = shutil.disk_usage
    full = lambda path: real(path)._replace(free=3)  # noqa: E731
    config = dataclasses.replace(CONFIG, steps=12)
    with pytest.raises(OSError, match="room for 0 MB and a checkpoint needs") as raised:
        run(tmp_path, config, at_step={6: lambda: monkeypatch.setattr(shutil, "disk_usage", full)})
    assert raised.value.errno == errno.ENOSPC
    assert "goes on from step 4" in str(raised.value)
    assert steps_in(tmp_path) == [4]
    with pytest.raises(OSError, match="room for"):
        run(tmp_path, at_step={4: lambda: pytest.fail("a step was spent")})
    monkeypatch.undo()
    assert_same(run(tmp_path), straight)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Orbax's
@pytest.mark.parametrize("writing", [False, True])
def test_a_workdir_that_is_lost_is_made_again(tmp_path, straight, capsys, writing):
    workdir = tmp_path / "run"

    def lose():
        while not writing and not (workdir / "checkpoints" / "4").is_dir():
            time.sleep(0.01)
        workdir.rename(tmp_path / "elsewhere")

    assert_same(run(workdir, at_step={4 if writing else 6: lose}), straight)
    assert steps_in(workdir)[-1] == 12
    told = capsys.readouterr().err
    assert_same(run(workdir), straight)
    if (tmp_path / "elsewhere" / "checkpoints" / "4").is_dir():
        assert "could not be written" not in told


def test_the_best_checkpoint_is_kept(tmp_path):
    scores = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5}
    asked = []

    def validate(state, step):
        asked.append(step)
        return Validation(scores[step], {"segm/AP": scores[step]}, [np.zeros((8, 8, 3), np.uint8)])

    config = dataclasses.replace(CONFIG, eval_every=3)
    run(tmp_path, config, validate=validate)
    assert asked == [3, 6, 9, 12]
    with Checkpoints(tmp_path / "best") as best:
        assert best.latest_step() == 6
        assert best.experiment()["best"] == {"step": 6, "score": 0.5}


def test_many_devices_share_the_same_batch(tmp_path):
    with pytest.raises(ValueError, match="batch_size 3 does not divide over 2 devices"):
        run(tmp_path, dataclasses.replace(CONFIG, batch_size=3))
    assert not (tmp_path / "checkpoints").exists()
