"""Experiment files, and experiments as JSON."""

import dataclasses
import importlib
import pkgutil
import sys
import typing

import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg import experiment, predictor
from jaxseg.commands import weights
from jaxseg.commands.cli import main
from jaxseg.commands.demo import MASK_RCNN as EXPERIMENT
from jaxseg.data import Shapes
from jaxseg.experiment import from_json, load_experiment, to_json
from jaxseg.heads.rcnn import TwoStageConfig
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.step import TrainState
from tests.conftest import ROOT

FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_builds_and_is_restored_from_json(path):
    source = Shapes(size=64, train_images=4) if path.stem == "own_data" else None
    loaded = load_experiment(path, source)
    assert from_json(to_json(loaded)) == loaded
    loaded.model.build()


def test_an_experiment_file_must_define_one(tmp_path):
    path = tmp_path / "nothing.py"
    path.write_text("x = 1")
    with pytest.raises(ValueError, match=r"nothing.py must define `experiment"):
        load_experiment(path)
    with pytest.raises(FileNotFoundError, match=r"no experiment file .*absent.py"):
        load_experiment(tmp_path / "absent.py")


def test_an_experiment_takes_the_source_that_is_given(tmp_path, capsys):
    source = Shapes(size=96, train_images=4)
    loaded = load_experiment(ROOT / "experiments" / "mask_rcnn_nuclei.py", source)
    assert loaded.data.source == source
    made = load_experiment(ROOT / "experiments" / "own_data.py", source)
    assert (made.data.source, made.data.buckets) == (source, ((96, 96),))
    assert made.model.num_classes == 5
    with pytest.raises(ValueError, match=r"makes an experiment for .*: give --data DIR"):
        load_experiment(ROOT / "experiments" / "own_data.py")


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


@pytest.mark.parametrize("file", ["own_config.py", "own_config/__init__.py", "own_config/part.py"])
def test_config_classes_beside_an_experiment_must_be_importable_without_it(
    file, tmp_path, monkeypatch
):
    """A later command would not find them."""
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Own:\n"
        "    def open(self, split): ...\n"
    )
    path = tmp_path / "experiment.py"
    path.write_text(
        "import dataclasses\n"
        f"from {module} import Own\n"
        "from jaxseg.commands.demo import MASK_RCNN\n"
        "data = dataclasses.replace(MASK_RCNN.data, source=Own())\n"
        "experiment = dataclasses.replace(MASK_RCNN, data=data)\n"
    )
    loaded = load_experiment(path)
    with pytest.raises(ValueError, match=f"class {module}:Own, which cannot be imported here"):
        from_json(to_json(loaded), experiment.config_modules(loaded))
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_experiment(path)
    assert type(loaded.data.source) is sys.modules[module].Own  # workers get it by its name
    assert from_json(to_json(loaded), experiment.config_modules(loaded)) == loaded
    for name in ("own_config", "own_config.part"):
        sys.modules.pop(name, None)


def test_from_json_accepts_only_frozen_dataclasses_and_known_fields():
    written = to_json(EXPERIMENT)
    for name in ("os:system", "tests.tiny:TinyBackbone", "tests.tiny:MaskRCNNConfig"):
        written["model"]["class"] = name
        with pytest.raises(ValueError, match=f"{name} is not a frozen dataclass of that module"):
            from_json(written, allow_modules=("os", "tests.tiny"))
    for name in ("absent_module:Config", "<run_path>:Config"):
        written["model"]["class"] = name
        with pytest.raises(ValueError, match="must be in an installed package"):
            from_json(written, allow_modules=(name.partition(":")[0],))
    del written["model"]["class"]
    with pytest.raises(ValueError, match="config class None, which is not one of jaxseg's own"):
        from_json(written)
    written = to_json(EXPERIMENT)
    written["train"]["stepz"] = 3
    with pytest.raises(ValueError, match="has no field stepz"):
        from_json(written)


def test_to_json_refuses_other_values():
    with pytest.raises(TypeError, match="only dataclasses and plain values"):
        to_json(object())


PLUGIN = """
import dataclasses
import pathlib

pathlib.Path(__file__).with_name("imported").touch()


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 3

    def open(self, split):
        return None
"""
"""A module that leaves a file when it is imported."""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The folder of `PLUGIN`, which can be imported as `plugin_of_a_stranger`."""
    (tmp_path / "plugin_of_a_stranger.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("plugin_of_a_stranger", None)


def save_checkpoint(workdir, metadata):
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, TrainState(np.asarray(0), {"w": np.ones(2)}, {}, ()), metadata)


@pytest.mark.parametrize("module", ["plugin_of_a_stranger", "jaxseg.__main__", "this"])
def test_a_checkpoint_cannot_import_a_module(plugin, module, capsys):
    written = to_json(EXPERIMENT)
    written["model"]["backbone"] = {"class": f"{module}:Config", "width": 5}
    save_checkpoint(plugin / "run", {"experiment": written, "categories": []})
    imported_before = set(sys.modules)
    with pytest.raises(
        ValueError, match=rf"run: .* {module}:Config, .*nothing .*--allow-module {module}"
    ):
        predictor.restore(plugin / "run")
    assert not (plugin / "imported").exists()
    assert module not in set(sys.modules) - imported_before
    assert not capsys.readouterr().out


def test_a_module_is_imported_if_the_user_allows_it(plugin):
    written = {"class": "plugin_of_a_stranger:Config", "width": 5}
    found = from_json(written, allow_modules=("plugin_of_a_stranger",))
    assert (plugin / "imported").exists()
    assert found == sys.modules["plugin_of_a_stranger"].Config(5)
    assert experiment.config_modules([1, found]) == {"plugin_of_a_stranger"}


@pytest.mark.parametrize(
    "command",
    ["eval run", "predict run photo.png --out out", "weights export run --out x.safetensors"],
)
def test_the_commands_have_a_flag_to_allow_modules(command, tmp_path, monkeypatch, capsys):
    def restore(workdir, *_, allow_modules, **__):
        raise ValueError(f"allowed {allow_modules}")

    monkeypatch.setattr(predictor, "restore", restore)
    monkeypatch.setattr(weights, "restore", restore)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("photo.png")
    flags = ["--allow-module", "one", "--allow-module", "two.three"]
    assert main([*command.split(), *flags]) == 1
    assert "allowed ('one', 'two.three')" in capsys.readouterr().err


def test_a_training_may_bring_its_own_config_classes(plugin):
    imported = importlib.import_module("plugin_of_a_stranger")
    data = dataclasses.replace(EXPERIMENT.data, source=imported.Config(4))
    own = dataclasses.replace(EXPERIMENT, data=data)
    written = to_json(own)
    assert from_json(written, experiment.config_modules(own)) == own
    with pytest.raises(ValueError, match="--allow-module plugin_of_a_stranger"):
        from_json(written)


def frozen_dataclasses():
    found = set()
    for module in pkgutil.walk_packages(jaxseg.__path__, "jaxseg."):
        if not module.name.endswith("__main__"):
            values = vars(importlib.import_module(module.name)).values()
            found |= {v for v in values if isinstance(v, type) and dataclasses.is_dataclass(v)}
    return {cls for cls in found if cls.__dataclass_params__.frozen}


def test_all_configs_of_jaxseg_may_be_named():
    """Of a class that is missing, a training would write checkpoints that cannot be read."""
    allowed = set(experiment.CONFIG_CLASSES)
    sources = {cls for cls in frozen_dataclasses() if hasattr(cls, "open")}
    configs = {cls for cls in frozen_dataclasses() if cls.__name__.endswith("Config")}
    assert {"CocoFolder", "TfdsFolder", "Shapes"} <= {cls.__name__ for cls in sources}
    assert len(configs) > 8
    assert (sources | configs) - {TwoStageConfig} <= allowed  # which models' configs extend
    for cls in allowed:
        for hint in typing.get_type_hints(cls).values():
            parts = {hint, *typing.get_args(hint)}
            assert {part for part in parts if dataclasses.is_dataclass(part)} <= allowed, cls
