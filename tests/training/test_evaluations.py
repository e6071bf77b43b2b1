"""Evaluations during runs of the toy model, and the best checkpoint."""

import dataclasses
import os
import shutil
import signal

import pytest

from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from jaxseg.training.evaluator import Validation
from jaxseg.training.preemption import Preempted, handle_signals, run_unless_stopped
from tests.training.toy_run import (
    EVALUATED,
    SCORES,
    SimulatedCrash,
    Validate,
    assert_same,
    fail_writes,
    run,
    steps_in,
)


def test_skipped_steps_are_not_evaluated(tmp_path):
    validate = Validate()
    run(tmp_path, EVALUATED, poisoned=range(4, 8), validate=validate)
    assert validate.steps == [3, 9, 12]


def test_a_failed_write_during_an_evaluation_is_logged_like_any_other(
    tmp_path, uninterrupted, monkeypatch, log
):
    def fail_once(state, step):
        if step == 3:
            fail_writes(monkeypatch, [OSError("the disk failed")])
        else:
            monkeypatch.undo()
        return Validation(0.5, "segm/AP", {}, [])

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
    assert "step 6 has the best segm/AP so far (0.500), but is not kept: the disk failed" in log()


def best_of(workdir):
    with open_checkpoints(workdir / "best") as best:
        return best.latest_step(), best.metadata()["best"]


def test_the_best_checkpoint_is_kept(tmp_path):
    validate = Validate()
    run(tmp_path, EVALUATED, validate=validate)
    assert validate.steps == [3, 6, 9, 12]
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5, "metric": "segm/AP"})


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


def interrupted_evaluations(notice):
    """Return a `validate` that gets a signal; it computes as the processes of a run do."""

    def scores():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation was not aborted")

    return lambda state, step: run_unless_stopped(notice, scores)


def test_a_signal_during_an_evaluation_aborts_it(tmp_path, uninterrupted):
    with (
        handle_signals() as notice,
        pytest.raises(Preempted, match="stopped by SIGTERM: saved after step 3"),
    ):
        run(tmp_path, EVALUATED, validate=interrupted_evaluations(notice), notice=notice)
    validate = Validate()
    assert_same(run(tmp_path, EVALUATED, validate=validate), uninterrupted)
    assert validate.steps == [3, 6, 9, 12]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own loops
def test_a_corrupt_best_checkpoint_is_replaced(tmp_path, uninterrupted, log):
    with pytest.raises(SimulatedCrash):
        run(tmp_path, EVALUATED, validate=Validate(crash_at=9))
    shutil.rmtree(tmp_path / "best" / "checkpoints" / "6" / "metadata")
    assert_same(run(tmp_path, EVALUATED, validate=Validate()), uninterrupted)
    assert "the best checkpoint so far cannot be read and is replaced" in log()
    assert best_of(tmp_path) == (12, {"step": 12, "score": 0.5, "metric": "segm/AP"})


def test_a_new_run_renames_the_best_checkpoint_of_a_previous_run(tmp_path, log):
    run(tmp_path, EVALUATED, validate=Validate())
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SimulatedCrash):
        run(tmp_path, EVALUATED, validate=Validate(crash_at=6))
    assert f"{tmp_path / 'best'} is renamed to best-1" in log()
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.2, "metric": "segm/AP"})
    with Checkpoints(tmp_path / "best-1", read_only=True) as before:
        assert before.metadata()["best"] == {"step": 6, "score": 0.5, "metric": "segm/AP"}


def test_a_better_state_of_an_earlier_step_becomes_the_best(tmp_path, monkeypatch):
    config = dataclasses.replace(EVALUATED, max_to_keep=9)
    run(tmp_path, config, validate=Validate())
    assert best_of(tmp_path) == (6, {"step": 6, "score": 0.5, "metric": "segm/AP"})
    for step in (4, 6, 8, 9, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    monkeypatch.setitem(SCORES, 3, 0.6)
    with pytest.raises(SimulatedCrash):
        run(tmp_path, config, validate=Validate(crash_at=6))
    assert best_of(tmp_path) == (3, {"step": 3, "score": 0.6, "metric": "segm/AP"})
