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
from collections.abc import Iterator, Mapping
from typing import Any, cast

from jaxseg.data import DataConfig
from jaxseg.model import ModelConfig
from jaxseg.training.loop import TrainConfig


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model, its data and its training."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    pretrained: str | None = None
    """File with the weights of an ImageNet ResNet, which initialise the model's backbone."""


def load_experiment(path: pathlib.Path) -> Experiment:
    """Return the value `experiment` of a Python file, which may import other files of its folder.

    Raises FileNotFoundError without the file and ValueError without the value.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}")
    with _importable(path.resolve().parent):
        found = runpy.run_path(str(path)).get("experiment")
    if not isinstance(found, Experiment):
        raise ValueError(f"{path} must define `experiment = Experiment(...)`")
    return found


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """Let the files of a folder be imported as modules, and forget these modules at the end.

    So files of another folder with the same names are imported anew, and a config class from such
    a file cannot be imported by `from_json`, which reports it before a training starts.
    """
    modules_before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules_before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and pathlib.Path(file).parent == folder:
                del sys.modules[name]


def to_json(value: Any) -> Any:
    """Return a config as JSON values; dataclasses become `{"class": name, field: ...}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": name} | fields
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an experiment cannot hold {value!r}: only dataclasses and plain values")


def from_json(value: Any) -> Any:
    """Return the config that `to_json` wrote.

    Only frozen dataclasses are called, whatever class the JSON names. Raises ValueError for another
    class and for unknown fields.
    """
    if isinstance(value, Mapping):
        cls = _find_class(value["class"])
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known - {"class"})
        if unknown:
            raise ValueError(
                f"{value['class']} has no field {', '.join(unknown)}: "
                "use the version of jaxseg that wrote the checkpoint"
            )
        return cls(**{name: from_json(item) for name, item in value.items() if name != "class"})
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


def _find_class(name: str) -> type:
    """Import the frozen dataclass of a name such as "jaxseg.data.config:DataConfig"."""
    module, _, qualname = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the experiment uses the config class {name}, which cannot be imported here: "
            "config classes must live in an installed module, not in the experiment file"
        ) from error
    if not (dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen):  # type: ignore[union-attr]
        raise ValueError(f"{name} is not a frozen dataclass")
    return cast(type, found)
