"""An experiment: all settings of one training run, as one frozen value.

An experiment file is ordinary Python that defines `experiment = Experiment(...)`; its docstring
states the result that it reproduces. A checkpoint stores the experiment as JSON, in which every
config names its class, so that nothing else is needed to build the model again.
"""

import contextlib
import dataclasses
import importlib
import pathlib
import runpy
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

from jaxseg import data
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.cascade import CascadeConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import ModelConfig, PanopticModelConfig
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.htc import FusedSemanticHeadConfig, HTCConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRendConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.pixels import PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.types import HeuristicMerging


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model, its data and its training."""

    model: ModelConfig
    data: data.DataConfig
    train: TrainConfig
    pretrained: str | None = None
    """File with the weights of an ImageNet ResNet, which initialise the model's backbone."""
    init_from: str | None = None
    """Workdir, or file of exported or published weights of the same model, whose arrays initialise
    the model where they fit; `pretrained` is then not read."""


CONFIG_CLASSES: tuple[type, ...] = (
    Experiment,
    TrainConfig,
    OptimizerConfig,
    data.DataConfig,
    data.Augmentation,
    data.ColorJitter,
    data.CopyPaste,
    data.RandomSizeCrop,
    data.ScaleJitter,
    data.CocoFolder,
    data.Shapes,
    data.TfdsFolder,
    MaskRCNNConfig,
    CascadeRCNNConfig,
    HTCConfig,
    PanopticFPNConfig,
    PointRendConfig,
    SOLOv2Config,
    RPNConfig,
    BoxHeadConfig,
    CascadeConfig,
    FusedSemanticHeadConfig,
    MaskHeadConfig,
    CoarseMaskConfig,
    PointHeadConfig,
    SemanticHeadConfig,
    HeuristicMerging,
    RoIAlignConfig,
    ResNetConfig,
    PixelConfig,
)
"""The classes that a checkpoint may name. It may be untrusted, so no module is imported because a
file names it."""


def load_experiment(path: pathlib.Path, source: data.SourceConfig | None = None) -> Experiment:
    """Return the experiment of a Python file, which may import other files of its folder.

    The file defines the value `experiment`, or a function `make_experiment(source)` that returns
    one for a dataset.

    Args:
        path: the file.
        source: the dataset, in place of the experiment's own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it raises anything, it defines neither, or the function and `source` is None.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}")
    try:
        with _importable(path.resolve().parent):
            defined = runpy.run_path(str(path))
            found, make = defined.get("experiment"), defined.get("make_experiment")
    except Exception as error:
        line = _line(error, path)
        raise ValueError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if found is None and callable(make):
        if source is None:
            raise ValueError(f"{path} makes an experiment for a dataset: give --data DIR")
        found = make(source)
    if not isinstance(found, Experiment):
        raise ValueError(
            f"{path} must define `experiment = Experiment(...)`, or `make_experiment(source)`"
        )
    return found if source is None else replace_source(found, source)


def replace_source(experiment: Experiment, source: data.SourceConfig) -> Experiment:
    """Return the experiment with another dataset.

    Of a COCO-format folder the annotations are read that the model learns from: the panoptic ones
    for a panoptic model, if there are any, and semantic maps where the experiment's own folder has
    them, unless the panoptic annotations are the only ones.
    """
    own = experiment.data.source
    if isinstance(source, data.CocoFolder):
        if isinstance(experiment.model, PanopticModelConfig):
            source = dataclasses.replace(source, panoptic=source.has_panoptic())
        elif isinstance(own, data.CocoFolder) and not (
            source.semantic_maps or source.reads_panoptic()
        ):
            source = dataclasses.replace(
                source,
                semantic_maps=own.semantic_maps,
                num_semantic_classes=own.num_semantic_classes,
            )
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, source=source))


def _line(error: Exception, path: pathlib.Path) -> str:
    """Return ", line 7" for the line of a file at which it raised an error; "" if none did."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f", line {lines[-1]}" if lines else ""


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """Let the files and packages of a folder be imported, and forget those modules at the end.

    So modules of another folder with the same names are imported anew. A module that can also be
    imported without the folder is kept; of the others `from_json` finds no config class, and
    reports it before a training starts, since no later command would find it.
    """
    modules_before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        new = set(sys.modules) - modules_before
        locations = {
            name: _location(getattr(sys.modules[name], "__spec__", None))
            for name in new
            if "." not in name
        }
        sys.path.remove(str(folder))
        forgotten = {
            name
            for name, location in locations.items()
            if location is not None
            and folder in location.parents[:2]  # of `name.py`, `name/__init__.py` or `name/`
            and _location(_find_spec(name)) != location
        }
        for name in new:
            if name.partition(".")[0] in forgotten:
                del sys.modules[name]


def _location(spec: ModuleSpec | None) -> pathlib.Path | None:
    """Return the file of a module, or the folder of a package without `__init__.py`."""
    if spec is None:
        return None
    location = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return None if location is None else pathlib.Path(location)


def _find_spec(name: str) -> ModuleSpec | None:
    """Find a module, whether or not it is imported already."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def to_json(value: Any) -> Any:
    """Return a config as JSON values; dataclasses become `{"class": name, field: ...}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = _class_name(type(value))
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": name} | fields
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an experiment cannot hold {value!r}: only dataclasses and plain values")


def config_modules(value: Any) -> set[str]:
    """Return the modules of all classes of a config."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return {type(value).__module__} | config_modules(held)
    if isinstance(value, tuple | list):
        return set().union(*map(config_modules, value))
    return set()


def from_json(value: Any, allow_modules: Collection[str] = ()) -> Any:
    """Return the config that `to_json` wrote.

    Only `CONFIG_CLASSES` are called, and frozen dataclasses that are defined in one of
    `allow_modules`, which are imported. Raises ValueError for another class and for unknown fields.
    """
    if isinstance(value, Mapping):
        cls = _find_class(value.get("class"), allow_modules)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known - {"class"})
        if unknown:
            raise ValueError(
                f"{value['class']} has no field {', '.join(unknown)}: "
                "use the version of jaxseg that wrote the checkpoint"
            )
        items = {name: item for name, item in value.items() if name != "class"}
        return cls(**{name: from_json(item, allow_modules) for name, item in items.items()})
    if isinstance(value, list):
        return tuple(from_json(item, allow_modules) for item in value)
    return value


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _find_class(name: Any, allow_modules: Collection[str]) -> type:
    """Return the frozen dataclass of a name such as "jaxseg.data.config:DataConfig"."""
    for cls in CONFIG_CLASSES:
        if _class_name(cls) == name:
            return cls
    module, _, qualname = str(name).partition(":")
    if module not in allow_modules:
        raise ValueError(
            f"the experiment names the config class {name}, which is not one of jaxseg's own; "
            f"nothing was imported. If you trust that module, add --allow-module {module} "
            f"(in Python, allow_modules=[{module!r}])"
        )
    try:
        found = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the experiment uses the config class {name}, which cannot be imported here: it must "
            "be in an installed package or in a folder that PYTHONPATH names, and not in the "
            "experiment's file"
        ) from error
    if not (isinstance(found, type) and found.__module__ == module and _is_frozen(found)):
        raise ValueError(f"{name} is not a frozen dataclass of that module")
    return found


def _is_frozen(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
