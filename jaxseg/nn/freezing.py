"""Separate the parameters that are not trained from those that are.

Frozen parameters move from the collection `"params"`, which the optimiser changes, to `"frozen"`.
So their gradients are neither computed nor sent to other devices, they are not decayed, they do
not count in the gradient's norm, and the optimiser keeps no state for them.
"""

from collections.abc import Callable
from typing import Any

from flax import traverse_util

from jaxseg.model import Variables

FROZEN = "frozen"


def split_frozen(
    variables: Variables, is_frozen: Callable[[tuple[str, ...]], bool]
) -> dict[str, Any]:
    """Move the parameters whose path `is_frozen` accepts to the collection `"frozen"`."""
    params = traverse_util.flatten_dict(dict(variables["params"]))
    frozen = {path: value for path, value in params.items() if is_frozen(path)}
    if not frozen:
        return dict(variables)
    trained = {path: value for path, value in params.items() if path not in frozen}
    return {
        **variables,
        "params": traverse_util.unflatten_dict(trained),
        FROZEN: traverse_util.unflatten_dict(frozen),
    }


def merge_frozen(variables: Variables) -> dict[str, Any]:
    """Return the variables with all parameters in `"params"` again, as Linen layers need them."""
    others = {name: value for name, value in variables.items() if name != FROZEN}
    if FROZEN not in variables:
        return others
    trained = traverse_util.flatten_dict(dict(variables["params"]))
    frozen = traverse_util.flatten_dict(dict(variables[FROZEN]))
    return others | {"params": traverse_util.unflatten_dict(trained | frozen)}
