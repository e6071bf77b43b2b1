"""The commands as a user gives them, on a run of a few steps."""

import dataclasses
import json
import re

import cv2
import jax
import numpy as np
import pytest

from jaxseg import evaluation, predictor, validation
from jaxseg.commands import dry_run
from jaxseg.commands import eval as eval_command
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder, DataConfig, Shapes, write_coco
from jaxseg.experiment import Experiment
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.training.step import TrainState
from tests.tiny import tiny_config

SHAPES = Shapes(size=64, train_images=8, val_images=5)
EXPERIMENT = Experiment(
    model=dataclasses.replace(tiny_config(norm="sync_batch"), num_classes=5),
    data=DataConfig(source=SHAPES, buckets=((64, 64),), max_objects=6),
    train=TrainConfig(
        steps=6,
        batch_size=2,
        optimizer=OptimizerConfig(warmup_steps=2, learning_rate=0.01),
        log_every=2,
        checkpoint_every=2,
    ),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    train_command.train(EXPERIMENT, path)
    return path


def final_state(workdir):
    trained = predictor.load(workdir)
    return trained.step, jax.tree.map(np.asarray, trained.variables)


class SimulatedCrash(Exception):
    pass


def test_an_interrupted_run_goes_on_and_ends_as_if_never_stopped(workdir, tmp_path, monkeypatch):
    real = train_command.data.train_batches

    def batches_until_the_plug_is_pulled(*args, **kwargs):
        stream = real(*args, **kwargs)
        for _ in range(5):
            yield next(stream)
        raise SimulatedCrash

    monkeypatch.setattr(train_command.data, "train_batches", batches_until_the_plug_is_pulled)
    with pytest.raises(SimulatedCrash):
        train_command.train(EXPERIMENT, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
    monkeypatch.undo()
    train_command.train(EXPERIMENT, tmp_path)
    step, resumed = final_state(tmp_path)
    _, straight = final_state(workdir)
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


def test_a_finished_run_has_nothing_left_to_do(workdir, capsys):
    train_command.train(EXPERIMENT, workdir)
    assert "going on from step 6" in capsys.readouterr().err
    assert list((workdir / "tensorboard").glob("events*"))


def test_a_run_whose_data_has_changed_is_refused(workdir, monkeypatch):
    source = SHAPES.open("train")
    source.image_ids = list(source.image_ids)[::-1]
    monkeypatch.setattr(Shapes, "open", lambda self, split: source)
    with pytest.raises(ValueError, match=r"other choices: data.checksum \(\d+ -> \d+\)\."):
        train_command.train(EXPERIMENT, workdir)


def test_images_with_more_objects_than_slots_are_told_of(workdir, monkeypatch, capsys):
    source = SHAPES.open("train")
    source.object_counts = np.arange(len(source))
    monkeypatch.setattr(Shapes, "open", lambda self, split: source)
    train_command.train(EXPERIMENT, workdir)
    assert "image id 8 has 7: --data.max-objects 7 sees all" in capsys.readouterr().err


def test_a_workdir_with_another_run_is_refused_by_field(workdir):
    train = dataclasses.replace(EXPERIMENT.train, seed=9, log_every=1)
    with pytest.raises(ValueError, match=r"other choices: train.seed \(0 -> 9\)\."):
        train_command.train(dataclasses.replace(EXPERIMENT, train=train), workdir)


def test_the_number_of_classes_must_be_that_of_the_data(tmp_path):
    wrong = dataclasses.replace(EXPERIMENT, model=tiny_config())
    with pytest.raises(ValueError, match=r"data has 5 categories and the model.num_classes is 3"):
        train_command.train(wrong, tmp_path)


def test_non_finite_losses_name_the_step_and_the_terms(tmp_path):
    optimizer = OptimizerConfig(warmup_steps=0, learning_rate=1e30, grad_clip_norm=1e30)
    train = dataclasses.replace(EXPERIMENT.train, optimizer=optimizer, max_consecutive_nonfinite=2)
    with pytest.raises(FloatingPointError, match=r"step \d: .*rpn_class = nan"):
        train_command.train(dataclasses.replace(EXPERIMENT, train=train), tmp_path)


def test_eval_writes_metrics_predictions_and_overlays(workdir, tmp_path, capsys):
    assert main(["eval", str(workdir), "--out", str(tmp_path)]) == 0
    assert "AP50" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"segm/AP", "segm/AP50", "bbox/AP", "segm/AP/disc"} <= metrics.keys()
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 5
    for result in json.loads((tmp_path / "predictions.json").read_text()):
        assert result["category_id"] in range(1, 6)
        assert result["segmentation"]["size"] == [64, 64]


def test_eval_on_a_folder_of_ones_own(workdir, tmp_path):
    write_coco(SHAPES.open("val"), tmp_path, "mine")
    arguments = ["--data", str(tmp_path), "--split", "mine", "--out", str(tmp_path / "out")]
    assert main(["eval", str(workdir), *arguments]) == 0
    ours = eval_command.evaluate(workdir, tmp_path / "direct")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == ours


def write_other_categories(folder):
    """The split `val` with its classes numbered the other way round and one lacking: its old id."""
    write_coco(SHAPES.open("val"), folder, "val")
    content = json.loads((folder / "val.json").read_text())
    lacking = content["categories"][0]["id"]
    for entry in content["categories"]:
        entry["id"] = 100 - entry["id"]
    for entry in content["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]
    for name, key in (("categories", "id"), ("annotations", "category_id")):
        content[name] = [entry for entry in content[name] if entry[key] != 100 - lacking]
    (folder / "val.json").write_text(json.dumps(content))
    return lacking


def test_eval_goes_by_the_names_of_categories(workdir, tmp_path):
    lacking = write_other_categories(tmp_path)
    eval_command.evaluate(workdir, tmp_path / "direct")
    eval_command.evaluate(workdir, tmp_path / "named", data_folder=tmp_path)
    direct = json.loads((tmp_path / "direct" / "predictions.json").read_text())
    named = json.loads((tmp_path / "named" / "predictions.json").read_text())
    assert {result["category_id"] for result in direct} - {lacking}
    assert named == [
        {**result, "category_id": 100 - result["category_id"]}
        for result in direct
        if result["category_id"] != lacking
    ]


def judged(monkeypatch, experiment, state):
    """The results that evaluations in mid-training judge: of the state, or its average first."""
    found = []

    def evaluate(truth, results):
        found.append(results)
        return {"segm/AP": 0.5}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    validation.make_validate(experiment, SHAPES.open("train").categories)(state, 6)
    return found


def state_of(variables, ema=None):
    others = {name: value for name, value in variables.items() if name != "params"}
    return TrainState(None, variables["params"], others, None, ema)


def test_an_evaluation_in_mid_training_goes_by_names_too(workdir, tmp_path, monkeypatch):
    write_other_categories(tmp_path)
    eval_command.evaluate(workdir, tmp_path / "out", data_folder=tmp_path)
    expected = json.loads((tmp_path / "out" / "predictions.json").read_text())
    data = dataclasses.replace(EXPERIMENT.data, source=CocoFolder(str(tmp_path)))
    experiment = dataclasses.replace(EXPERIMENT, data=data)
    found = judged(monkeypatch, experiment, state_of(predictor.load(workdir).variables))
    assert json.loads(json.dumps(found)) == [expected]


def test_the_average_is_judged_and_the_weights_beside_it(workdir, monkeypatch):
    trained = predictor.load(workdir).variables
    zeros = jax.tree.map(np.zeros_like, trained["params"])
    (alone,) = judged(monkeypatch, EXPERIMENT, state_of(trained))
    state = state_of(trained | {"params": zeros}, ema=trained["params"])
    average, last = judged(monkeypatch, EXPERIMENT, state)
    assert alone
    assert average == alone
    assert last != alone


def test_eval_refuses_names_that_occur_twice(workdir, tmp_path, capsys):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][1]["name"] = content["categories"][0]["name"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert main(["eval", str(workdir), "--data", str(tmp_path)]) == 1
    assert "occur twice" in capsys.readouterr().err


def test_eval_refuses_other_categories(workdir, tmp_path, capsys):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][0]["name"] = "cat"
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert len(CocoFolder(str(tmp_path)).open("val")) == 5
    assert main(["eval", str(workdir), "--data", str(tmp_path)]) == 1
    assert "categories cat, which the model does not know" in capsys.readouterr().err


def test_predict_draws_and_writes_coco_results(workdir, tmp_path, capsys):
    paths = []
    for number, size in enumerate([(64, 64), (90, 40)]):
        paths.append(str(tmp_path / f"image{number}.png"))
        cv2.imwrite(paths[-1], np.full((*size, 3), 120, np.uint8))
    assert main(["predict", str(workdir), *paths, "--out", str(tmp_path / "out")]) == 0
    assert "image1.png" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {r["file_name"] for r in results} == set(paths)
    for result in results:
        size = [64, 64] if result["image_id"] == 1 else [90, 40]
        assert result["segmentation"]["size"] == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "DIR", "absent.png", "--out", "x"], "absent.png"),
        (["eval", "absent"], "absent holds no checkpoints"),
        (["train", "absent.py", "--workdir", "x"], "no experiment file absent.py"),
    ],
)
def test_bad_input_is_one_line_and_status_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "train", "eval", "predict"])
def test_help_fits_a_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) <= 24


def test_unknown_flags_are_errors():
    with pytest.raises(SystemExit) as stop:
        main(["eval", "x", "--bogus", "1"])
    assert stop.value.code == 2


@pytest.mark.parametrize("flag", ["--num-processes", "--process-id"])
def test_numbers_of_hosts_need_a_way_to_meet(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "x.py", "--workdir", "x", flag, "0"])
    assert stop.value.code == 2
    assert "need --coordinator" in capsys.readouterr().err


def test_an_earlier_checkpoint_is_evaluated_by_its_step(workdir, tmp_path, capsys):
    arguments = ["eval", str(workdir), "--out", str(tmp_path)]
    assert main([*arguments, "--step", "4"]) == 0
    assert "evaluating step 4" in capsys.readouterr().err
    assert main([*arguments, "--step", "5"]) == 1
    assert "holds no step 5, only 2, 4, 6" in capsys.readouterr().err


def test_the_demo_trains_either_model(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train_command, "train", lambda *given: asked.append(given))
    monkeypatch.setattr(eval_command, "evaluate", lambda workdir, out: None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--model", "solov2", "--out", str(tmp_path)]) == 0
    assert [(type(experiment.model).__name__, workdir.name) for experiment, workdir in asked] == [
        ("MaskRCNNConfig", "run-mask_rcnn"),
        ("SOLOv2Config", "run-solov2"),
    ]


def test_the_dry_run_tells_of_images_with_too_many_objects(capsys):
    source = SHAPES.open("train")
    source.object_counts = np.asarray([1, 2, 3, 4, 5, 6, 7, 20])
    dry_run._print_data(EXPERIMENT, source)
    told = "6.0 objects an image, at most 20; 2 images have more than max_objects (6)"
    assert told in capsys.readouterr().out


def test_a_run_may_go_on_with_what_only_changes_how_it_is_computed(workdir):
    train = dataclasses.replace(EXPERIMENT.train, grad_accum_steps=2, max_to_keep=1)
    backbone = dataclasses.replace(EXPERIMENT.model.backbone, remat=True)
    model = dataclasses.replace(EXPERIMENT.model, backbone=backbone)
    changed = dataclasses.replace(EXPERIMENT, model=model, train=train, pretrained="absent.pth")
    record = train_command.run_record(changed, SHAPES.open("train").categories)
    train_command._check_same_run(
        workdir, record | {"data": train_command._fingerprint(SHAPES.open("train"))}
    )


def test_a_run_may_go_on_from_its_best_checkpoint(tmp_path):
    record = train_command.run_record(EXPERIMENT, SHAPES.open("train").categories)
    state = TrainState(np.asarray(2), {"w": np.ones(2)}, {}, ())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, record | {"best": {"step": 2, "score": 0.5}})
    train_command._check_same_run(tmp_path, record)


@pytest.mark.parametrize(
    ("kind", "field", "value", "told"),
    [
        (TrainConfig, "log_every", 0, "train: log_every 0 must be at least 1"),
        (TrainConfig, "checkpoint_every", 0, "train: checkpoint_every 0 must be at least 1"),
        (TrainConfig, "eval_every", -1, "train: eval_every -1 must not be negative"),
        (TrainConfig, "ema_decay", 1.0, "train: ema_decay 1.0 must be between 0 and 1, or None"),
        (OptimizerConfig, "grad_clip_norm", 0.0, "grad_clip_norm 0.0 must be above 0, or None"),
        (OptimizerConfig, "learning_rate", -1.0, "learning_rate -1.0 must not be negative"),
    ],
)
def test_choices_that_cannot_be_are_refused(kind, field, value, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        kind(**{field: value})


def test_a_record_that_fails_is_named(tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        error = ValueError("it is broken")
        error.add_note("(image id 7, epoch 0)")
        raise error

    path = tmp_path / "experiment.py"
    path.write_text("from tests.commands.test_cli import EXPERIMENT as experiment")
    monkeypatch.setattr(train_command, "train", fails)
    assert main(["train", str(path), "--workdir", str(tmp_path)]) == 1
    assert "it is broken (image id 7, epoch 0)" in capsys.readouterr().err


def test_the_dry_run_is_a_command(tmp_path, capsys):
    path = tmp_path / "experiment.py"
    path.write_text("from tests.commands.test_cli import EXPERIMENT as experiment")
    fields = ["--train.batch-size", "4", "--train.grad-accum-steps", "2"]
    assert main(["train", str(path), "--dry-run", *fields]) == 0
    told = capsys.readouterr().out
    for expected in ("parameters: ", "FLOP", "GiB of temporaries", "8 images"):
        assert expected in told
    assert list(tmp_path.iterdir()) == [path]
