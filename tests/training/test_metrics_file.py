"""`metrics.jsonl`: valid JSON, each step once, whatever happened to the run."""

import dataclasses
import errno
import json
import math
import pathlib
import re
import shutil

import pytest

from jaxseg.training import progress
from jaxseg.training.metrics_file import MetricsFile
from jaxseg.training.progress import Progress
from tests.training.toy_run import EVALUATED, SimulatedCrash, Validate, crash, run

CONFIG = dataclasses.replace(EVALUATED, log_every=2)
MEASURED = ("train/images_per_second", "train/data_wait_fraction")


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def results(workdir):
    """Return the records without the times in them."""
    records = read(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(workdir, CONFIG, validate=Validate())
    return results(workdir)


def test_a_run_records_each_step_and_evaluation(uninterrupted):
    train = [record["step"] for record in uninterrupted if "train/loss" in record]
    val = {
        record["step"]: record["val/segm/AP"] for record in uninterrupted if "val/segm/AP" in record
    }
    assert train == [2, 4, 6, 8, 10, 12]
    assert val == {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5}
    assert len(uninterrupted) == 10
    assert {"train/grad_norm", "train/learning_rate"} <= uninterrupted[0].keys()


@pytest.mark.parametrize("crashes", [(7,), (5, 11), (3, 6, 9)])
def test_a_killed_and_resumed_run_has_each_step_once_with_equal_values(
    tmp_path, uninterrupted, crashes
):
    for step in crashes:
        with pytest.raises(SimulatedCrash):
            run(tmp_path, CONFIG, at_step={step: crash}, validate=Validate())
    run(tmp_path, CONFIG, validate=Validate())
    by_step = sorted(
        results(tmp_path), key=lambda record: (record["step"], "val/segm/AP" in record)
    )
    assert by_step == uninterrupted


def test_a_finished_run_records_nothing_more(tmp_path, uninterrupted):
    run(tmp_path, CONFIG, validate=Validate())
    validate = Validate()
    run(tmp_path, CONFIG, validate=validate)
    assert not validate.steps
    assert results(tmp_path) == uninterrupted


def test_the_file_comes_back_after_its_folder_was_deleted(tmp_path):
    workdir = tmp_path / "run"
    file = MetricsFile(workdir / "metrics.jsonl", start=0)
    file.write(2, {"train/loss": 1.0})
    shutil.rmtree(workdir)
    file.write(4, {"train/loss": 0.5})
    assert read(workdir / "metrics.jsonl") == [{"step": 4, "train/loss": 0.5}]


def test_a_number_that_is_not_finite_is_null(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl", start=0)
    file.write(2, {"train/loss": math.nan, "train/box": math.inf, "val/segm/APs": None})
    expected = {"step": 2, "train/loss": None, "train/box": None, "val/segm/APs": None}
    assert read(tmp_path / "metrics.jsonl") == [expected]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "train/loss": 1.0}\n\0\0\0\n{"step": 4, "train/lo')
    MetricsFile(path, start=4).write(6, {"train/loss": 0.5})
    assert [record["step"] for record in read(path)] == [2, 6]


def test_a_repeated_evaluation_replaces_the_one_before(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, start=0)
    file.write(4, {"train/loss": 0.5})
    file.write(4, {"val/segm/AP": 0.1})
    file.write(6, {"train/loss": 0.4})
    file = MetricsFile(path, start=4)
    assert file.has(4, "val/")
    assert not file.has(6, "train/")
    file.write(4, {"val/segm/AP": 0.2})
    assert read(path) == [{"step": 4, "train/loss": 0.5}, {"step": 4, "val/segm/AP": 0.2}]


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    file = MetricsFile(tmp_path / "metrics.jsonl", start=0)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "open", fail)
    with pytest.raises(OSError, match=f"written to {tmp_path}/metrics.jsonl: No space left"):
        file.write(2, {"train/loss": 1.0})


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "process_index", lambda: 1)
    log = Progress(tmp_path, start=0, steps=10, batch_size=4)
    log.show(5, {"loss": 1.0, "grad_norm": 1.0}, learning_rate=0.25)
    assert not log.has_evaluation(5)
    log.close()
    assert not list(tmp_path.iterdir())


def test_the_run_says_what_it_compiles_and_how_it_ends(tmp_path, capsys, log):
    run(tmp_path, CONFIG, validate=Validate())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "compiling the training step for 64x64 ..."
    assert printed[1].startswith("step 1/12  loss ")
    assert printed[1].endswith(" s, compilation included")
    assert sum(line.startswith("compiling") for line in printed) == 1
    assert "step 6 has the best segm/AP so far (0.500)" in log()
    assert f"finished: 12 steps, best segm/AP 0.500 at step 6, in {tmp_path}\n" in log()
    programs = int(re.search(r"compiled (\d+) programs in \d+ s", log())[1])
    assert programs >= 1
    assert "although" not in log()
    run(tmp_path, CONFIG, validate=Validate())
    assert "was finished already: 12 steps, best segm/AP 0.500 at step 6, in " in log()
    assert not capsys.readouterr().out
