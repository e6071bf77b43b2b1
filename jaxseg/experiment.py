"""An experiment: all choices of one result, as one frozen value.

An experiment file is ordinary Python that defines `experiment = Experiment(...)`; its
docstring says what it reproduces. Any field can be overridden on the command line
(`--train.steps 100`). A checkpoint carries the experiment as JSON, in which every config
names its class, so that nothing else is needed to build the model again.
"""

import dataclasses
import importlib
import pathlib
import runpy
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

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
    """A file with the weights of an ImageNet ResNet that the model's backbone starts from."""


def load_experiment(path: pathlib.Path) -> Experiment:
    """The value `experiment` of a Python file."""
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file {path}")
    found = runpy.run_path(str(path)).get("experiment")
    if not isinstance(found, Experiment):
        raise ValueError(f"{path} must define `experiment = Experiment(...)`")
    return found


def override(experiment: Experiment, arguments: Sequence[str]) -> Experiment:
    """The experiment with fields changed by arguments such as `--train.batch-size 8`.

    An unknown field or a value of the wrong type ends the program with a message.
    """
    config = (tyro.conf.AvoidSubcommands,)
    parsed: Any = tyro.cli(
        _mirror(experiment), args=arguments, config=config, prog="jaxseg train FILE"
    )
    return _apply(experiment, parsed)


def _mirror(value: Any) -> type:
    """A dataclass with the fields of `value`, typed by what they hold.

    Annotations such as `model: ModelConfig` name a protocol; the parser needs the class.
    """
    hints = typing.get_type_hints(type(value))
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if dataclasses.is_dataclass(held):
            nested = _mirror(held)
            fields.append((field.name, nested, dataclasses.field(default=nested())))
        else:
            fields.append((field.name, hints[field.name], dataclasses.field(default=held)))
    return dataclasses.make_dataclass(type(value).__name__, fields, frozen=True)


def _apply(value: Any, parsed: Any) -> Any:
    """`value` with every field as in its parsed mirror."""
    changes = {}
    for field in dataclasses.fields(value):
        held, new = getattr(value, field.name), getattr(parsed, field.name)
        changes[field.name] = _apply(held, new) if dataclasses.is_dataclass(held) else new
    return dataclasses.replace(value, **changes)


def to_json(value: Any) -> Any:
    """A config as JSON values; dataclasses become `{"class": name, field: ...}`."""
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
    """The config that `to_json` wrote. Only frozen dataclasses are ever made."""
    if isinstance(value, Mapping):
        cls = _find_class(value["class"])
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(value) - known - {"class"})
        if unknown:
            raise ValueError(
                f"{value['class']} has no field {', '.join(unknown)}: "
                "the checkpoint is from another version of jaxseg"
            )
        return cls(**{name: from_json(item) for name, item in value.items() if name != "class"})
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


def _find_class(name: str) -> type:
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
    return typing.cast(type, found)
