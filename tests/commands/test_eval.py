"""`jaxseg eval`, and the evaluations during a training: files, categories, EMA and steps."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from jaxseg import evaluation, predictor, validation
from jaxseg.commands import eval as eval_command
from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder, write_coco
from jaxseg.training.preemption import Preempted, handle_signals
from jaxseg.training.step import TrainState
from jaxseg.validation import Results
from tests.commands.tiny_run import EXPERIMENT, SHAPES


def test_eval_writes_metrics_predictions_and_overlays(workdir, tmp_path, capsys):
    assert main(["eval", str(workdir), "--out", str(tmp_path)]) == 0
    assert "AP50" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"segm/AP", "segm/AP50", "bbox/AP", "segm/AP/disc", "boundary/AP"} <= metrics.keys()
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 5
    for result in json.loads((tmp_path / "predictions.json").read_text()):
        assert result["category_id"] in range(1, 6)
        assert result["segmentation"]["size"] == [64, 64]


@pytest.mark.parametrize("arguments", [["--step", "999"], ["--split", "absent"]])
def test_an_evaluation_that_cannot_start_leaves_no_output_folder(workdir, tmp_path, arguments):
    out = tmp_path / "out"
    assert main(["eval", str(workdir), "--out", str(out), *arguments]) == 1
    assert main(["eval", str(tmp_path / "absent"), *arguments]) == 1
    assert not list(tmp_path.iterdir())


def test_eval_on_another_folder_with_the_same_images(workdir, tmp_path):
    write_coco(SHAPES.open("val"), tmp_path, "custom")
    arguments = ["--data", str(tmp_path), "--split", "custom", "--out", str(tmp_path / "out")]
    assert main(["eval", str(workdir), *arguments]) == 0
    expected = eval_command.evaluate(workdir, tmp_path / "direct")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == expected


def write_renumbered_categories(folder):
    """Write the split `val` with category ids in reverse and the first category left out.

    Returns the original id of the category that was left out.
    """
    write_coco(SHAPES.open("val"), folder, "val")
    content = json.loads((folder / "val.json").read_text())
    removed_id = content["categories"][0]["id"]
    for entry in content["categories"]:
        entry["id"] = 100 - entry["id"]
    for entry in content["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]
    for name, key in (("categories", "id"), ("annotations", "category_id")):
        content[name] = [entry for entry in content[name] if entry[key] != 100 - removed_id]
    (folder / "val.json").write_text(json.dumps(content))
    return removed_id


def test_eval_matches_categories_by_name(workdir, tmp_path):
    removed_id = write_renumbered_categories(tmp_path)
    eval_command.evaluate(workdir, tmp_path / "original")
    eval_command.evaluate(workdir, tmp_path / "renumbered", data_folder=tmp_path)
    original = json.loads((tmp_path / "original" / "predictions.json").read_text())
    renumbered = json.loads((tmp_path / "renumbered" / "predictions.json").read_text())
    assert {result["category_id"] for result in original} - {removed_id}
    assert renumbered == [
        {**result, "category_id": 100 - result["category_id"]}
        for result in original
        if result["category_id"] != removed_id
    ]


def evaluated_results(monkeypatch, experiment, state):
    """Run a validation of `state` and return each result list that it evaluates."""
    evaluated = []

    def evaluate(truth, results, *, boundaries):
        assert not boundaries  # they take time
        evaluated.append(results)
        return {"segm/AP": 0.5}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    validation.Validator(experiment, SHAPES.open("train").categories)(state, 6)
    return evaluated


def state_of(variables, ema=None):
    others = {name: value for name, value in variables.items() if name != "params"}
    return TrainState(None, variables["params"], others, None, ema)


def test_validation_matches_categories_by_name(workdir, tmp_path, monkeypatch):
    write_renumbered_categories(tmp_path)
    eval_command.evaluate(workdir, tmp_path / "out", data_folder=tmp_path)
    expected = json.loads((tmp_path / "out" / "predictions.json").read_text())
    data = dataclasses.replace(EXPERIMENT.data, source=CocoFolder(str(tmp_path)))
    experiment = dataclasses.replace(EXPERIMENT, data=data)
    state = state_of(predictor.restore(workdir).variables)
    evaluated = evaluated_results(monkeypatch, experiment, state)
    assert json.loads(json.dumps(evaluated)) == [expected]


def test_validation_evaluates_the_ema_and_the_parameters_beside_it(workdir, monkeypatch):
    variables = predictor.restore(workdir).variables
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    (without_ema,) = evaluated_results(monkeypatch, EXPERIMENT, state_of(variables))
    state = state_of(variables | {"params": zeros}, ema=variables["params"])
    with_ema, raw = evaluated_results(monkeypatch, EXPERIMENT, state)
    assert without_ema
    assert with_ema == without_ema
    assert raw != without_ema


def test_eval_refuses_category_names_that_occur_twice(workdir, tmp_path, capsys):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][1]["name"] = content["categories"][0]["name"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert main(["eval", str(workdir), "--data", str(tmp_path)]) == 1
    assert "occur twice" in capsys.readouterr().err


def test_eval_refuses_categories_that_the_model_does_not_have(workdir, tmp_path, capsys):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][0]["name"] = "cat"
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert len(CocoFolder(str(tmp_path)).open("val")) == 5
    assert main(["eval", str(workdir), "--data", str(tmp_path)]) == 1
    assert "has categories that the model does not have: cat" in capsys.readouterr().err


def test_an_earlier_checkpoint_is_evaluated_by_its_step(workdir, tmp_path, capsys):
    arguments = ["eval", str(workdir), "--out", str(tmp_path)]
    assert main([*arguments, "--step", "4"]) == 0
    assert "evaluating step 4" in capsys.readouterr().err
    assert main([*arguments, "--step", "5"]) == 1
    assert "holds no step 5, only 2, 4, 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ("step", None, r"step \(4 -> 3\)"),
        ("checkpoint", "step", r"checkpoint.step \(4 -> 3\)"),
        ("checkpoint", "crc32", r"checkpoint.crc32 \(\d+ -> 3\)"),
        ("data", "categories", r"data.categories \(.* -> 3\)"),
        ("data", "fingerprint", r"data.fingerprint \(\w+ -> 3\)"),
    ],
)
def test_processes_that_evaluate_something_else_are_refused(
    workdir, tmp_path, monkeypatch, section, field, message
):
    def of_two_processes(record):
        other = 3 if field is None else {**record.get(section, {}), field: 3}
        return [record, record | ({section: other} if section in record else {})]

    monkeypatch.setattr(eval_command, "allgather_json", of_two_processes)
    with pytest.raises(ValueError, match=f"process 1 was started with other .*: {message}"):
        eval_command.evaluate(workdir, tmp_path / "out", step=4)


def test_pictures_are_of_the_first_images_whatever_process_predicted_on_them():
    source = SHAPES.open("val")
    box, counts = [8.0, 8.0, 20.0, 20.0], {"score": 0.9, "category_id": 1}
    of_other_processes = [{"image_id": i, "bbox": box, **counts} for i in source.image_ids[::-1]]
    drawn = list(validation.draw_first(source, Results(of_other_processes, None), 3))
    assert [image_id for image_id, _ in drawn] == list(source.image_ids[:3])
    empty = list(validation.draw_first(source, Results([], None), 3))
    for (_, picture), (_, without) in zip(drawn, empty, strict=True):
        assert (picture != without).any()


def test_a_notice_stops_an_evaluation(workdir, tmp_path):
    with handle_signals() as notice:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted):
            eval_command.evaluate(workdir, tmp_path, notice=notice)
    assert not list(tmp_path.iterdir())


def test_coco_metrics_of_lvis_annotations_come_with_a_warning(workdir, tmp_path, caplog):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    eval_command.evaluate(workdir, tmp_path / "out", data_folder=tmp_path)
    assert "LVIS" not in caplog.text
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][0]["neg_category_ids"] = []
    (tmp_path / "val.json").write_text(json.dumps(content))
    eval_command.evaluate(workdir, tmp_path / "out", data_folder=tmp_path)
    assert "not comparable with published ones" in caplog.text
