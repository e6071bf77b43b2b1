"""Runs that start from a trained detector, and runs that are extended or forked."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from jaxseg import predictor, zoo
from jaxseg.commands import initial
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.commands.initial import Origin, fit, per_class_paths, read_origin
from jaxseg.nn.freezing import merge_frozen
from jaxseg.training import loop
from jaxseg.training.step import init_variables
from jaxseg.zoo.mask_rcnn import TORCHVISION_R50_FPN_V2
from tests.commands.tiny_run import EXPERIMENT, SHAPES, final_state
from tests.tiny import tiny_panoptic_fpn_config, tiny_solov2_config
from tests.zoo.small import small

NAMES = [category.name for category in SHAPES.open("train").categories]
SHAPE = (1, 64, 64, 3)
MODEL: Any = EXPERIMENT.model


def flat(variables):
    return traverse_util.flatten_dict(merge_frozen(variables))


@pytest.fixture(scope="module")
def random_variables():
    return init_variables(EXPERIMENT.model.build(), SHAPE, seed=7)


@pytest.fixture(scope="module")
def origin(workdir):
    return read_origin(workdir, EXPERIMENT)


def test_with_the_same_classes_all_arrays_are_taken(random_variables, origin):
    values, transfer = fit(random_variables, origin, EXPERIMENT.model, NAMES)
    assert len(transfer.taken) == len(origin.arrays)
    assert not any(transfer._replace(taken=()))
    for path, value in flat(values).items():
        np.testing.assert_array_equal(value, origin.arrays[path], err_msg=str(path))
    assert jax.tree.structure(values) == jax.tree.structure(random_variables)


def test_an_exported_file_knows_its_classes(workdir, tmp_path, origin):
    path = tmp_path / "model.safetensors"
    assert main(["weights", "export", str(workdir), "--out", str(path)]) == 0
    exported = read_origin(path, EXPERIMENT)
    assert exported.class_names == origin.class_names == NAMES
    assert exported.arrays.keys() == origin.arrays.keys()


@pytest.mark.parametrize("names", [NAMES[::-1], ["disc", "cat", "star", "ring", "dog"]])
def test_with_other_classes_the_arrays_of_each_class_are_new(random_variables, origin, names):
    values, transfer = fit(random_variables, origin, EXPERIMENT.model, names)
    per_class = per_class_paths(EXPERIMENT.model)
    assert set(transfer.per_class) == {".".join(path[1:]) for path in per_class}
    for path, value in flat(values).items():
        expected = flat(random_variables) if path in per_class else origin.arrays
        np.testing.assert_array_equal(value, expected[path], err_msg=str(path))


def test_an_exported_file_is_the_same_start_as_its_workdir(workdir, origin, tmp_path):
    exported = tmp_path / "model.safetensors"
    assert main(["weights", "export", str(workdir), "--out", str(exported)]) == 0
    found = read_origin(exported, EXPERIMENT)
    assert list(found.class_names) == NAMES
    assert found.arrays.keys() == origin.arrays.keys()
    for path, value in origin.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], value)


def test_arrays_that_depend_on_the_classes_are_the_heads_outputs():
    names = {".".join(path[1:-1]) for path in per_class_paths(EXPERIMENT.model)}
    assert len(names) == 3  # class logits, box deltas, masks
    assert all("head" in name for name in names)


THINGS_LAYERS = {"box_head.logit", "box_head.delta", "mask_head.logit"}
STUFF_LAYERS = {"semantic_head.logit"}


@pytest.mark.parametrize(
    ("things", "stuff", "new"),
    [
        (["a", "b", "c"], ["d", "e"], set()),
        (["a", "b", "c"], [], STUFF_LAYERS),  # a model of instances
        (["a", "b", "c"], ["e", "d"], STUFF_LAYERS),
        (["a", "b"], ["c", "d", "e"], THINGS_LAYERS | STUFF_LAYERS),
        (["c", "b", "a"], ["d", "e"], THINGS_LAYERS),
    ],
)
def test_things_and_stuff_are_each_taken_if_they_are_the_same(things, stuff, new):
    config = tiny_panoptic_fpn_config()
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), initial.abstract(config))
    origin = Origin(flat(variables), things + stuff, len(things))
    _, transfer = fit(variables, origin, config, ["a", "b", "c", "d", "e"])
    assert {name.rpartition(".")[0] for name in transfer.per_class} == new


def test_another_model_takes_the_backbone(origin):
    config = dataclasses.replace(tiny_solov2_config(norm="sync_batch"), num_classes=5)
    variables = init_variables(config.build(), SHAPE, seed=7)
    _, transfer = fit(variables, origin, config, NAMES)
    assert any(name.startswith("backbone") for name in transfer.taken)
    assert transfer.missing
    assert transfer.unused


def test_a_detector_of_which_nothing_fits_is_refused(random_variables, origin):
    renamed = {("params", "other", *path): value for path, value in origin.arrays.items()}
    with pytest.raises(ValueError, match="none of its arrays has the name and shape"):
        fit(random_variables, Origin(renamed, NAMES, len(NAMES)), EXPERIMENT.model, NAMES)


@pytest.mark.slow
def test_a_published_checkpoint_of_other_classes(tmp_path, caplog):
    config = small(TORCHVISION_R50_FPN_V2)
    published = dataclasses.replace(config, num_classes=9)
    source = init_variables(published.build(), SHAPE, seed=1)
    path = tmp_path / "published.safetensors"
    zoo.write_safetensors(path, zoo.to_torchvision(source, published))
    experiment = dataclasses.replace(EXPERIMENT, model=config, init_from=str(path))
    caplog.set_level("INFO", "jaxseg")
    values = initial.initial_variables(
        experiment, config.build(), initial.Start(), SHAPE, NAMES[:4]
    )
    per_class = per_class_paths(config)
    assert per_class
    for name, value in flat(values).items():
        if name not in per_class:
            np.testing.assert_array_equal(value, flat(source)[name], err_msg=str(name))
    assert "start anew, since the classes differ" in caplog.text
    assert "arrays are taken from" in caplog.text


def test_a_run_starts_from_a_workdir_and_then_needs_it_no_more(workdir, tmp_path, monkeypatch):
    starts, start_state = [], loop.start_state

    def start_recorded_state(variables, *optimizer, **ema):
        starts.append(jax.tree.map(np.array, variables))
        return start_state(variables, *optimizer, **ema)

    monkeypatch.setattr(loop, "start_state", start_recorded_state)
    train = dataclasses.replace(EXPERIMENT.train, steps=1)
    experiment = dataclasses.replace(EXPERIMENT, train=train, init_from=str(workdir))
    train_command.train(experiment, tmp_path / "run")
    assert final_state(tmp_path / "run")[0] == 1
    (start,) = starts
    jax.tree.map(np.testing.assert_array_equal, start, predictor.restore(workdir).variables)
    again = dataclasses.replace(experiment, init_from=str(tmp_path / "absent"))
    train_command.train(again, tmp_path / "run")


@pytest.mark.parametrize("flag", ["--init-from", "--pretrained"])
def test_an_absent_file_is_an_error_before_the_data_is_opened(tmp_path, capsys, monkeypatch, flag):
    monkeypatch.setattr(type(SHAPES), "open", lambda *_: pytest.fail("the data was opened"))
    path = tmp_path / "experiment.py"
    path.write_text("from tests.commands.tiny_run import EXPERIMENT as experiment")
    arguments = ["train", str(path), "--workdir", str(tmp_path / "run"), flag, "absent.pth"]
    assert main(arguments) == 1
    assert f"no checkpoint file absent.pth: name one with {flag} FILE" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def with_train(**changes):
    return dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, **changes))


@pytest.fixture
def fork(workdir, tmp_path):
    """The workdir of a fork of the shared run, by two steps."""
    optimizer = dataclasses.replace(EXPERIMENT.train.optimizer, learning_rate=1e-3)
    train_command.train(
        with_train(steps=8, seed=5, optimizer=optimizer), tmp_path / "fork", fork=workdir
    )
    return tmp_path / "fork"


def test_a_fork_goes_on_with_other_settings_and_can_be_extended(workdir, fork, caplog):
    step, variables = final_state(fork)
    assert step == 8
    before_step, before = final_state(workdir)
    assert before_step == EXPERIMENT.train.steps
    differences = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), variables["params"], before["params"]
    )
    assert 0 < max(jax.tree.leaves(differences)) < 0.05
    saved = predictor.restore(fork).experiment.train
    assert (saved.seed, saved.steps) == (5, 8)

    caplog.set_level("INFO", "jaxseg")
    optimizer = saved.optimizer
    longer = with_train(steps=9, seed=5, optimizer=optimizer)
    train_command.train(longer, fork, fork=workdir)  # it holds a run: that one is resumed
    assert final_state(fork)[0] == 9
    assert "extended from 8 to 9 steps" in caplog.text
    with pytest.raises(ValueError, match=r"train.steps \(9 -> 8\)"):
        train_command.train(with_train(steps=8, seed=5, optimizer=optimizer), fork)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": with_train(steps=6).train}, r"is at step 6 and the fork ends at step 6"),
        ({"train": with_train(steps=8, ema_decay=0.9).train}, r"train.ema_decay \(None -> 0.9\)"),
        (
            {"model": dataclasses.replace(MODEL, fpn_channels=24)},
            r"keeps its model.*model.fpn_channels \(\d+ -> 24\).*--init-from",
        ),
    ],
)
def test_forks_that_cannot_go_on_are_refused(workdir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_command.train(
            dataclasses.replace(EXPERIMENT, **changes), tmp_path / "fork", fork=workdir
        )
    assert not (tmp_path / "fork").exists()
