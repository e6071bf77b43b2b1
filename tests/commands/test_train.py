"""`jaxseg train`: interrupted, resumed and refused runs, and invalid settings."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from jaxseg.commands import resume
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.commands.settings import check_processes_agree
from jaxseg.data import CocoFolder, Shapes, write_coco
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.training.step import TrainState
from tests.commands.tiny_run import EXPERIMENT, EXPERIMENT_FILE, SHAPES, final_state
from tests.tiny import tiny_config


class SimulatedCrash(Exception):
    pass


def test_an_interrupted_run_resumes_and_ends_as_an_uninterrupted_one(
    workdir, tmp_path, monkeypatch
):
    original = train_command.data.TrainPipeline.batches

    def batches_until_a_crash(self, start_step):
        stream = original(self, start_step)
        for _ in range(5):
            yield next(stream)
        raise SimulatedCrash

    monkeypatch.setattr(train_command.data.TrainPipeline, "batches", batches_until_a_crash)
    with pytest.raises(SimulatedCrash):
        train_command.train(EXPERIMENT, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
    monkeypatch.undo()
    train_command.train(EXPERIMENT, tmp_path)
    step, resumed = final_state(tmp_path)
    _, uninterrupted = final_state(workdir)
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)


def test_a_finished_run_has_nothing_left_to_do(workdir, caplog):
    caplog.set_level("INFO", "jaxseg")
    train_command.train(EXPERIMENT, workdir)
    assert f"was finished already: 6 steps, in {workdir}: nothing to train" in caplog.text
    assert list((workdir / "tensorboard").glob("events*"))


def test_a_run_whose_data_has_changed_is_refused(workdir, monkeypatch):
    source = SHAPES.open("train")
    source.fingerprint = dataclasses.replace(SHAPES, seed=1).open("train").fingerprint
    monkeypatch.setattr(Shapes, "open", lambda self, split: source)
    with pytest.raises(ValueError, match=r"a different config: data.fingerprint \(\w+ -> \w+\)\."):
        train_command.train(EXPERIMENT, workdir)


def test_a_run_goes_on_without_an_image_that_went_bad(tmp_path):
    folder, workdir = tmp_path / "data", tmp_path / "run"
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), folder, split)
    source = CocoFolder(str(folder))
    train = dataclasses.replace(EXPERIMENT.train, steps=4, checkpoint_every=1)
    experiment = dataclasses.replace(
        EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, source=source), train=train
    )
    order = train_command.data.TrainPipeline(
        source.open("train"), experiment.data, experiment.model.build().targets, 2, 0
    )
    bad = order.image_ids(3)[0]
    path = folder / "images" / f"train_{bad:08}.png"
    content = path.read_bytes()
    path.write_bytes(content[:60])
    with pytest.raises(ValueError, match=rf"--data.source.ignore-image-ids {bad}, also on resume"):
        train_command.train(experiment, workdir)

    without = dataclasses.replace(source, ignore_image_ids=(bad,))
    truncated = without.open("train")
    path.unlink()
    with pytest.raises(ValueError, match=r"images are skipped by .*ignore-image-ids"):
        train_command.train(experiment, workdir)
    assert without.open("train").fingerprint == truncated.fingerprint
    assert len(without.open("val")) == SHAPES.val_images
    train_command.train(
        dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, source=without)),
        workdir,
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 4
        saved = checkpoints.metadata()["experiment"]["data"]["source"]
    assert saved["ignore_image_ids"] == [bad]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.source\.ignore_image_ids"):
        train_command.train(experiment, workdir)


def test_images_with_more_objects_than_max_objects_are_logged(workdir, monkeypatch, caplog):
    source = SHAPES.open("train")
    source.object_counts = np.arange(len(source))
    monkeypatch.setattr(Shapes, "open", lambda self, split: source)
    train_command.train(EXPERIMENT, workdir)
    assert "image id 8 has 7: --data.max-objects 7 uses all" in caplog.text


def test_a_workdir_with_a_different_config_is_refused_by_field(workdir):
    train = dataclasses.replace(EXPERIMENT.train, seed=9, log_every=1)
    with pytest.raises(ValueError, match=r"a different config: train.seed \(0 -> 9\)\."):
        train_command.train(dataclasses.replace(EXPERIMENT, train=train), workdir)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "seed", 9, r"train.seed \(0 -> 9\)"),
        ("train", "steps", 7, r"train.steps \(6 -> 7\)"),
        ("train", "checkpoint_every", 3, r"train.checkpoint_every \(2 -> 3\)"),
        ("train", "parallel", "shard_map", r"train.parallel \(pmap -> shard_map\)"),
        ("data", "max_objects", 5, r"data.max_objects \(6 -> 5\)"),
    ],
)
def test_processes_with_different_settings_are_refused_by_field(
    tmp_path, monkeypatch, section, field, value, message
):
    changed = dataclasses.replace(getattr(EXPERIMENT, section), **{field: value})
    other = train_command.run_metadata(
        dataclasses.replace(EXPERIMENT, **{section: changed}), SHAPES.open("train").categories
    )

    monkeypatch.setattr(
        train_command, "allgather_json", lambda mine: [mine, other | {"data": mine["data"]}]
    )
    with pytest.raises(ValueError, match=f"process 1 was started with other settings.*{message}"):
        train_command.train(EXPERIMENT, tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_with_different_validation_data_are_refused(tmp_path, monkeypatch):
    def of_two_processes(mine):
        return [mine, mine | {"val": mine["val"] | {"fingerprint": "x"}}]

    monkeypatch.setattr(train_command, "allgather_json", of_two_processes)
    evaluated = dataclasses.replace(
        EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, eval_every=3)
    )
    with pytest.raises(ValueError, match=r"process 1 .*: val.fingerprint \(\w+ -> x\)"):
        train_command.train(evaluated, tmp_path)


def test_processes_with_different_data_are_refused():
    mine = {"experiment": {}, "data": {"fingerprint": "1"}}
    other = {"experiment": {}, "data": {"fingerprint": "2"}}
    with pytest.raises(ValueError, match=r"data.fingerprint \(1 -> 2\)"):
        check_processes_agree([mine, other])


def test_processes_may_find_the_same_data_in_different_places():
    def settings(disk, workers):
        source = {"path": disk, "images": f"{disk}/images", "semantic_maps": f"{disk}/maps"}
        return {"experiment": {"data": {"source": source, "num_workers": workers}}}

    check_processes_agree([settings("/a", 2), settings("/b", 4)])


def test_num_classes_must_match_the_data(tmp_path):
    mismatched = dataclasses.replace(EXPERIMENT, model=tiny_config())
    with pytest.raises(ValueError, match=r"data has 5 categories and model.num_classes is 3"):
        train_command.train(mismatched, tmp_path)


def test_one_category_is_singular():
    source = SHAPES.open("train")
    source.categories = source.categories[:1]
    with pytest.raises(ValueError, match=r"has 1 category .* by --model.num-classes 1$"):
        train_command.check_num_classes(EXPERIMENT, source)


@pytest.mark.slow
def test_non_finite_losses_name_the_step_and_the_terms(tmp_path):
    optimizer = OptimizerConfig(warmup_steps=0, learning_rate=1e30, grad_clip_norm=1e30)
    train = dataclasses.replace(EXPERIMENT.train, optimizer=optimizer, max_consecutive_nonfinite=2)
    with pytest.raises(FloatingPointError, match=r"step \d: .*rpn_class = nan"):
        train_command.train(dataclasses.replace(EXPERIMENT, train=train), tmp_path)


def test_fields_that_do_not_change_the_result_may_differ_on_resume(workdir):
    train = dataclasses.replace(EXPERIMENT.train, grad_accum_steps=2, max_to_keep=1)
    backbone = dataclasses.replace(EXPERIMENT.model.backbone, remat=True)
    model = dataclasses.replace(EXPERIMENT.model, backbone=backbone)
    changed = dataclasses.replace(EXPERIMENT, model=model, train=train, pretrained="absent.pth")
    metadata = train_command.run_metadata(changed, SHAPES.open("train").categories)
    resume.check_resumable(
        workdir, metadata | {"data": {"fingerprint": SHAPES.open("train").fingerprint}}
    )


def test_what_may_differ_on_resume_may_differ_in_a_fork():
    assert resume._is_fixed("model.num_classes")
    assert not any(map(resume._is_fixed, resume.CHANGEABLE_ON_RESUME))


def test_semantic_maps_may_move_while_a_run_is_stopped(tmp_path):
    def metadata(folder):
        source = CocoFolder(str(folder), semantic_maps=f"{folder}/maps", num_semantic_classes=3)
        data = dataclasses.replace(EXPERIMENT.data, source=source)
        return train_command.run_metadata(dataclasses.replace(EXPERIMENT, data=data), [])

    with Checkpoints(tmp_path) as checkpoints:
        state = TrainState(np.asarray(2), {"w": np.ones(2)}, {}, ())
        checkpoints.save(2, state, metadata("/old"))
    assert resume.check_resumable(tmp_path, metadata("/new"))


def test_a_run_from_before_a_field_existed_is_resumed_with_its_default(tmp_path):
    metadata = train_command.run_metadata(EXPERIMENT, SHAPES.open("train").categories)
    saved = json.loads(json.dumps(metadata))
    del saved["experiment"]["data"]["resize_backend"]
    del saved["experiment"]["train"]["optimizer"]["milestones"]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, TrainState(np.asarray(2), {"w": np.ones(2)}, {}, ()), saved)
    resume.check_resumable(tmp_path, metadata)


def test_a_run_that_only_another_process_sees_is_compared_too(tmp_path, monkeypatch):
    metadata = train_command.run_metadata(EXPERIMENT, SHAPES.open("train").categories)
    other = dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, seed=9))
    saved = train_command.run_metadata(other, SHAPES.open("train").categories)
    monkeypatch.setattr(resume, "allgather_json", lambda value: [value, (2, saved)])
    with pytest.raises(ValueError, match=r"a different config: train.seed \(9 -> 0\)"):
        resume.check_resumable(tmp_path, metadata)
    assert not list(tmp_path.iterdir())


def test_a_run_may_be_resumed_from_its_best_checkpoint(tmp_path):
    metadata = train_command.run_metadata(EXPERIMENT, SHAPES.open("train").categories)
    state = TrainState(np.asarray(2), {"w": np.ones(2)}, {}, ())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, metadata | {"best": {"step": 2, "score": 0.5}})
    resume.check_resumable(tmp_path, metadata)


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        (TrainConfig, "log_every", 0, "train: log_every 0 must be at least 1"),
        (TrainConfig, "checkpoint_every", 0, "train: checkpoint_every 0 must be at least 1"),
        (TrainConfig, "eval_every", -1, "train: eval_every -1 must not be negative"),
        (TrainConfig, "ema_decay", 1.0, "train: ema_decay 1.0 must be between 0 and 1, or None"),
        (OptimizerConfig, "grad_clip_norm", 0.0, "grad_clip_norm 0.0 must be above 0, or None"),
        (OptimizerConfig, "learning_rate", -1.0, "learning_rate -1.0 must not be negative"),
    ],
)
def test_invalid_settings_are_refused(config, field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**{field: value})


def test_the_image_at_which_training_failed_is_named(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        error = ValueError("it is broken")
        error.add_note("(image id 7, epoch 0)")
        raise error

    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT_FILE)
    monkeypatch.setattr(train_command, "train", fail)
    assert main(["train", str(path), "--workdir", str(tmp_path)]) == 1
    assert "it is broken (image id 7, epoch 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("backend", "version", "warns"),
    [
        ("gpu", "0.10.2", True),
        ("gpu", "0.11.0", True),
        ("gpu", "0.11.1", False),
        ("gpu", "0.10.1", False),
        ("cpu", "0.10.2", False),
    ],
)
def test_slow_versions_of_jaxlib_on_a_gpu_are_named(backend, version, warns, monkeypatch, caplog):
    monkeypatch.setattr(train_command.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(train_command.jaxlib, "__version__", version)
    train_command._warn_of_slow_jaxlib()
    assert (f"jaxlib {version} adds to arrays on GPUs" in caplog.text) == warns
