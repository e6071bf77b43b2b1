"""Layers that are not trained.

Their parameters move from the collection `"params"`, which the optimiser changes, to a
collection of their own. So no gradient of theirs is computed, sent to other devices, decayed
or clipped by, and the optimiser keeps nothing for them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import traverse_util

from jaxseg.model import Variables

FROZEN = "frozen"


def split_frozen(
    variables: Variables, is_frozen: Callable[[tuple[str, ...]], bool]
) -> dict[str, Any]:
    """The variables with the parameters at the paths that `is_frozen` names set apart."""
    params = traverse_util.flatten_dict(dict(variables["params"]))
    frozen = {path: value for path, value in params.items() if is_frozen(path)}
    if not frozen:
        return dict(variables)
    kept = {path: value for path, value in params.items() if path not in frozen}
    return {
        **variables,
        "params": traverse_util.unflatten_dict(kept),
        FROZEN: traverse_util.unflatten_dict(frozen),
    }


def merge_frozen(variables: Variables) -> dict[str, Any]:
    """The variables with all parameters in `"params"` again, as the layers want them."""
    others = {name: value for name, value in variables.items() if name != FROZEN}
    if FROZEN not in variables:
        return others
    return others | {"params": _merge(variables["params"], variables[FROZEN])}


def _merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(dict(a)) | traverse_util.flatten_dict(dict(b))
    return traverse_util.unflatten_dict(flat)
