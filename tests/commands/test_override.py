"""Flags that change an experiment's fields."""

import dataclasses

import pytest

from jaxseg.commands.demo import MASK_RCNN as EXPERIMENT
from jaxseg.commands.override import override, override_source
from jaxseg.data import Augmentation, CocoFolder, ScaleJitter


def test_fields_can_be_overridden_at_any_depth():
    arguments = (
        "--train.steps 7 --model.backbone.depth 34 --model.head-norm None "
        "--data.source.size 64 --data.buckets 64 96 --data.min-size 48 --data.max-size 64"
    )
    changed = override(EXPERIMENT, arguments.split())
    assert changed.train.steps == 7
    assert changed.model.backbone.depth == 34
    assert changed.model.head_norm is None
    assert changed.data.source.size == 64
    assert changed.data.buckets == ((64, 96),)
    assert changed.data.min_max_size == (48, 64)
    assert type(changed.model) is type(EXPERIMENT.model)
    assert override(EXPERIMENT, []) == EXPERIMENT


def test_fields_of_an_optional_config_can_be_overridden_where_it_is_set():
    data = dataclasses.replace(EXPERIMENT.data, augmentation=Augmentation(lsj=ScaleJitter()))
    changed = override(
        dataclasses.replace(EXPERIMENT, data=data), ["--data.augmentation.lsj.min-scale", "0.5"]
    )
    assert changed.data.augmentation.lsj == ScaleJitter(min_scale=0.5)
    assert changed.data.augmentation.copy_paste is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train.stepz", "7"],
        ["--train.steps", "many"],
        ["--model.backbone.depth", "7"],
        ["--train.log-every", "0"],
    ],
)
def test_unknown_fields_and_invalid_values_end_the_program(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        override(EXPERIMENT, arguments)
    assert error.value.code == 2
    printed = capsys.readouterr().err.replace("-", "_")
    assert arguments[0].split(".")[-1].replace("-", "_")[:5] in printed


def test_an_invalid_value_is_named_once(capsys):
    with pytest.raises(SystemExit):
        override(EXPERIMENT, ["--train.steps", "0"])
    printed = " ".join(capsys.readouterr().err.split())
    assert "Error parsing train: steps 0 must be at least 1" in printed
    with pytest.raises(SystemExit):
        override(EXPERIMENT, ["--train.optimizer.momentum", "-1"])
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("optimizer: ") == 1


def test_a_misspelled_field_is_answered_with_a_suggestion(capsys):
    with pytest.raises(SystemExit):
        override(EXPERIMENT, ["--train.stepz", "7"])
    assert "--train.steps" in capsys.readouterr().err


def test_help_shows_the_fields_with_their_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        override(EXPERIMENT, ["--help"], prog="jaxseg train demo.py")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "jaxseg train demo.py" in printed
    assert "--model.backbone.depth {18,34,50,101}" in printed
    assert "(default: 1800)" in printed


def test_a_dataset_is_changed_before_an_experiment_is_made_for_it():
    source = CocoFolder("mine")
    arguments = (
        "--train.steps 5 --data.source.ignore-issues box-far polygon-far --data.min-size None "
        "--data.source.images=photos"
    )
    changed = override_source(source, arguments.split())
    assert changed == CocoFolder("mine", ignore_issues=("box-far", "polygon-far"), images="photos")
    assert override_source(source, ["--train.steps", "5", "--help"]) is source
