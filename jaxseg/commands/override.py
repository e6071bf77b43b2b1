"""The command-line flags that change an experiment's fields."""

import dataclasses
from collections.abc import Sequence

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from jaxseg.experiment import Experiment

_REGISTRY = ConstructorRegistry()


@_REGISTRY.struct_rule
def _use_type_of_default(field: StructTypeInfo) -> StructConstructorSpec | None:
    """Parse a field annotated with a protocol, such as `model`, as the config that it holds."""
    if dataclasses.is_dataclass(field.type) or not dataclasses.is_dataclass(field.default):
        return None
    held = StructTypeInfo.make(type(field.default), field.default, field.in_union_context)
    spec = ConstructorRegistry.get_struct_spec(held)
    return spec if isinstance(spec, StructConstructorSpec) else None


def override(
    experiment: Experiment, arguments: Sequence[str], *, prog: str = "jaxseg train EXPERIMENT"
) -> Experiment:
    """Return the experiment with fields changed by arguments such as `--train.batch-size 8`.

    An unknown field or a value of the wrong type ends the program with a message and status 2.
    `prog` is the command's name in messages.
    """
    return tyro.cli(
        Experiment,
        default=experiment,
        args=arguments,
        prog=prog,
        config=(tyro.conf.AvoidSubcommands,),
        registry=_REGISTRY,
    )
