import pytest

from jaxseg.commands.demo import MASK_RCNN as experiment
from jaxseg.experiment import from_json, load_experiment, override, to_json
from tests.conftest import ROOT

FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_builds_and_survives_being_written_down(path):
    loaded = load_experiment(path)
    assert from_json(to_json(loaded)) == loaded
    loaded.model.build()


def test_fields_can_be_overridden_at_any_depth():
    arguments = (
        "--train.steps 7 --model.backbone.depth 34 --model.head-norm None "
        "--data.source.size 64 --data.buckets 64 96 --data.min-size 48 --data.max-size 64"
    )
    changed = override(experiment, arguments.split())
    assert changed.train.steps == 7
    assert changed.model.backbone.depth == 34
    assert changed.model.head_norm is None
    assert changed.data.source.size == 64
    assert changed.data.buckets == ((64, 96),)
    assert changed.data.min_max_size == (48, 64)
    assert type(changed.model) is type(experiment.model)
    assert override(experiment, []) == experiment


@pytest.mark.parametrize(
    "arguments",
    [["--train.stepz", "7"], ["--train.steps", "many"], ["--model.backbone.depth", "7"]],
)
def test_unknown_fields_and_wrong_values_end_the_program(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        override(experiment, arguments)
    assert error.value.code == 2
    assert arguments[0].split(".")[-1][:5] in capsys.readouterr().err


def test_an_experiment_file_must_define_one(tmp_path):
    path = tmp_path / "nothing.py"
    path.write_text("x = 1")
    with pytest.raises(ValueError, match=r"nothing.py must define `experiment"):
        load_experiment(path)
    with pytest.raises(FileNotFoundError, match=r"no experiment file .*absent.py"):
        load_experiment(tmp_path / "absent.py")


def test_only_known_frozen_dataclasses_come_out_of_json():
    written = to_json(experiment)
    written["model"]["class"] = "os:system"
    with pytest.raises(ValueError, match="os:system is not a frozen dataclass"):
        from_json(written)
    written["model"]["class"] = "absent_module:Config"
    with pytest.raises(ValueError, match="must live in an installed module"):
        from_json(written)
    written = to_json(experiment)
    written["train"]["stepz"] = 3
    with pytest.raises(ValueError, match="has no field stepz"):
        from_json(written)


def test_what_cannot_be_written_down_is_refused():
    with pytest.raises(TypeError, match="only dataclasses and plain values"):
        to_json(object())
