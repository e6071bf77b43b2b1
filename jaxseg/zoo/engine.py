"""Convert a published state dict to a model's variables and back, strictly.

Terms:
    source   the codebase that a checkpoint comes from
    entry    one array: its name in the source, its path in the model's variables, and the change
             of its layout in each direction
    table    the entries of a whole model, one table for each source

It is an error if the file lacks an array of the table, has an array that the table lacks, or has
one of another shape than the model's; the message lists all such arrays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from jaxseg.model import Variables

Path = tuple[str, ...]
Arrays = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """The change of an array's axes from the source's to jaxseg's, and back; values stay."""

    from_source: Callable[[np.ndarray], np.ndarray]
    to_source: Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """One array of a checkpoint."""

    name: str
    path: Path
    layout: Layout


def _identity(x: np.ndarray) -> np.ndarray:
    return x


VECTOR = Layout(_identity, _identity)
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""OIHW in the source, HWIO in jaxseg."""
DENSE = Layout(np.transpose, np.transpose)
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
"""A 1x1 convolution in the source, a dense layer in jaxseg."""


def chain(first: Layout, second: Layout) -> Layout:
    """Return the layout that applies `first`, then `second` on the way from the source."""
    return Layout(
        lambda x: second.from_source(first.from_source(x)),
        lambda x: first.to_source(second.to_source(x)),
    )


def first_to_last(rows: int) -> Layout:
    """Return the layout that moves the first class, of `rows` rows, to the end."""
    return Layout(lambda x: np.roll(x, -rows, 0), lambda x: np.roll(x, rows, 0))


def layer_entries(
    name: str, path: Path, layout: Layout, bias: Layout | None = VECTOR
) -> Iterator[Entry]:
    """Yield a layer's weight and, unless `bias` is None, its bias."""
    yield Entry(f"{name}.weight", ("params", *path, "kernel"), layout)
    if bias is not None:
        yield Entry(f"{name}.bias", ("params", *path, "bias"), bias)


def import_state(
    state: Arrays, table: Sequence[Entry], like: Variables, unused: Callable[[str], bool]
) -> dict[str, Any]:
    """Convert a state dict to variables with the shapes of `like`.

    Names that `unused` accepts are skipped. Raises ValueError that lists missing, unknown and
    misshapen arrays, those with NaN or infinite values, and negative variances.
    """
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(like)).items()}
    no_entry = sorted(shapes.keys() - {entry.path for entry in table})
    if no_entry:
        raise ValueError(f"the table has no entry for {_join('.'.join(p) for p in no_entry)}")
    known = {entry.name for entry in table}
    missing = [entry.name for entry in table if entry.name not in state]
    unknown = [name for name in state if name not in known and not unused(name)]
    problems = [
        *(["missing: " + _join(missing)] if missing else []),
        *(["not used: " + _join(unknown)] if unknown else []),
    ]
    values, misshapen = {}, []
    for entry in table:
        if entry.name not in state:
            continue
        value, shape = state[entry.name], shapes[entry.path]
        expected = _source_shape(entry, shape)
        if tuple(value.shape) != expected:
            misshapen.append(f"{entry.name} is {tuple(value.shape)}, the model's is {expected}")
        else:
            values[entry.path] = np.ascontiguousarray(entry.layout.from_source(value), np.float32)
    if misshapen:
        problems.append("of another shape: " + _join(misshapen))
    names = {entry.path: entry.name for entry in table}
    infinite = [names[path] for path, value in values.items() if not np.isfinite(value).all()]
    if infinite:
        problems.append("with NaN or infinite values: " + _join(infinite))
    negative = [names[p] for p, value in values.items() if _is_variance(p) and (value < 0).any()]
    if negative:
        problems.append("with negative variances: " + _join(negative))
    if problems:
        raise ValueError("the checkpoint does not fit the model; " + "; ".join(problems))
    return traverse_util.unflatten_dict(values)


def import_fitting(
    state: Arrays, table: Sequence[Entry], like: Variables
) -> dict[Path, np.ndarray]:
    """Convert the arrays of a state dict that have the shapes of `like`, by path.

    Raises ValueError that lists those with NaN or infinite values.
    """
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(like)).items()}
    values, infinite = {}, []
    for entry in table:
        value = state.get(entry.name)
        if value is None or tuple(value.shape) != _source_shape(entry, shapes[entry.path]):
            continue
        values[entry.path] = np.ascontiguousarray(entry.layout.from_source(value), np.float32)
        if not np.isfinite(value).all():
            infinite.append(entry.name)
    if infinite:
        raise ValueError("the checkpoint has NaN or infinite values: " + _join(infinite))
    return values


def export_state(variables: Variables, table: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Convert variables to a state dict, the inverse of `import_state`, bit for bit.

    Raises ValueError that lists the arrays for which the table has no name.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    unnamed = sorted(flat.keys() - {entry.path for entry in table})
    if unnamed:
        raise ValueError(f"there are no names for {_join('.'.join(p) for p in unnamed)}")
    return {
        entry.name: np.ascontiguousarray(entry.layout.to_source(np.asarray(flat[entry.path])))
        for entry in table
    }


def _is_variance(path: Path) -> bool:
    """Return whether an array is the running variance of a batch norm."""
    return path[0] == "batch_stats" and path[-1] == "var"


def _source_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that an array of the model's `shape` has in the source."""
    return tuple(entry.layout.to_source(np.empty(shape, np.uint8)).shape)


def _join(names: Any, most: int = 20) -> str:
    """Return up to `most` names with commas, and the number of the others."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
