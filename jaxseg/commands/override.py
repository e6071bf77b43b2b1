"""The command-line flags that change an experiment's fields."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from jaxseg.commands.parser import format_plainly_without_terminal
from jaxseg.data import DataConfig, SourceConfig
from jaxseg.experiment import Experiment
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.training.loop import TrainConfig

_REGISTRY = ConstructorRegistry()


@_REGISTRY.struct_rule
def _use_config_of_default(field: StructTypeInfo) -> StructConstructorSpec | None:
    """Parse a field that holds a config by the config's own fields.

    So a field may be annotated with a protocol, as `model` is. Its help is the docstrings below the
    fields, as paragraphs: tyro's own would keep some of their line breaks.
    """
    config = field.default
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return None
    cls = type(config)
    types, docs = typing.get_type_hints(cls, include_extras=True), _field_docs(cls)
    fields = [
        StructFieldSpec(f.name, types[f.name], getattr(config, f.name), docs.get(f.name))
        for f in dataclasses.fields(cls)
        if f.init
    ]

    def instantiate(**values: Any) -> Any:
        try:
            return cls(**values)
        except ValueError as error:
            # The message begins with the config's name, as in Python, and so does tyro's.
            raise ValueError(re.sub(r"^\w+: ", "", str(error))) from error

    return StructConstructorSpec(instantiate=instantiate, fields=tuple(fields))


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class and its bases, each as one paragraph."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a class without a file
            continue
        body = ast.parse(textwrap.dedent(source)).body[0]
        for statement, after in zip(getattr(body, "body", ()), body.body[1:], strict=False):  # type: ignore[attr-defined]
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                docs |= {statement.target.id: _text(after)} if _text(after) else {}
    return docs


def _text(statement: ast.stmt) -> str:
    """Return the words of a docstring, "" for another statement."""
    value: Any = getattr(statement, "value", None)
    is_text = isinstance(statement, ast.Expr) and isinstance(value, ast.Constant)
    return " ".join(value.value.split()) if is_text and isinstance(value.value, str) else ""


def override(
    experiment: Experiment,
    arguments: Sequence[str],
    *,
    prog: str = "jaxseg train EXPERIMENT",
    description: str | None = None,
) -> Experiment:
    """Return the experiment with fields changed by arguments such as `--train.batch-size 8`.

    An unknown field or a value of the wrong type ends the program with a message and status 2.
    `prog` is the command's name in messages, `description` the text at the top of the help.
    """
    format_plainly_without_terminal()
    return tyro.cli(
        Experiment,
        default=experiment,
        args=arguments,
        prog=prog,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
        registry=_REGISTRY,
    )


def override_source(source: SourceConfig, arguments: Sequence[str]) -> SourceConfig:
    """Return a dataset with the fields changed that arguments such as `--data.source.images` name.

    An experiment that is made for a dataset reads it before the other fields exist.
    """
    own: list[str] = []
    is_own = False
    for argument in arguments:
        if argument.startswith("--"):
            is_own = argument.startswith("--data.source.")
        own += [argument] if is_own else []
    if not own:
        return source
    config = DataConfig(source, buckets=((64, 64),))
    return override(
        Experiment(MaskRCNNConfig(num_classes=1), config, TrainConfig()), own
    ).data.source
