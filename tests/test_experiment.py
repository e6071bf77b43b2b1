"""Experiment files, and experiments as JSON."""

import sys

import pytest

from jaxseg.commands.demo import MASK_RCNN as EXPERIMENT
from jaxseg.experiment import from_json, load_experiment, to_json
from tests.conftest import ROOT

FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_builds_and_is_restored_from_json(path):
    loaded = load_experiment(path)
    assert from_json(to_json(loaded)) == loaded
    loaded.model.build()


def test_an_experiment_file_must_define_one(tmp_path):
    path = tmp_path / "nothing.py"
    path.write_text("x = 1")
    with pytest.raises(ValueError, match=r"nothing.py must define `experiment"):
        load_experiment(path)
    with pytest.raises(FileNotFoundError, match=r"no experiment file .*absent.py"):
        load_experiment(tmp_path / "absent.py")


def test_an_experiment_file_imports_from_its_own_folder_only(tmp_path, monkeypatch):
    for steps, name in ((7, "first"), (9, "second")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base_experiment.py").write_text(f"STEPS = {steps}")
        (folder / "derived.py").write_text(
            "import dataclasses\n"
            "from base_experiment import STEPS\n"
            "from jaxseg.commands.demo import MASK_RCNN\n"
            "train = dataclasses.replace(MASK_RCNN.train, steps=STEPS)\n"
            "experiment = dataclasses.replace(MASK_RCNN, train=train)\n"
        )
    search_path = list(sys.path)
    assert load_experiment(tmp_path / "first" / "derived.py").train.steps == 7
    monkeypatch.chdir(tmp_path / "second")
    assert load_experiment(tmp_path / "second" / "derived.py").train.steps == 9
    assert "base_experiment" not in sys.modules
    assert sys.path == search_path


def test_from_json_accepts_only_frozen_dataclasses_and_known_fields():
    written = to_json(EXPERIMENT)
    written["model"]["class"] = "os:system"
    with pytest.raises(ValueError, match="os:system is not a frozen dataclass"):
        from_json(written)
    written["model"]["class"] = "absent_module:Config"
    with pytest.raises(ValueError, match="must live in an installed module"):
        from_json(written)
    written = to_json(EXPERIMENT)
    written["train"]["stepz"] = 3
    with pytest.raises(ValueError, match="has no field stepz"):
        from_json(written)


def test_to_json_refuses_other_values():
    with pytest.raises(TypeError, match="only dataclasses and plain values"):
        to_json(object())
