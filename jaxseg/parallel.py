"""The only file that names a parallel transform: how steps and predictions meet devices and hosts.

The images of a global batch are split over the devices along `BATCH_AXIS`; the state is the same
on all. Callers pass and get ordinary arrays, without a device axis.

Terms:
    host     one process (see `jaxseg.distributed`)
    share    the part of the global batch that a host feeds: consecutive images, in the order of
             the hosts
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.model import BATCH_AXIS, Model, Variables
from jaxseg.types import Batch, Detections

Tree = TypeVar("Tree")
Step = Callable[[Any, Batch], tuple[Any, Any]]
"""`(state, batch) -> (state, metrics)`, see `jaxseg.training.step`."""


def pmap_step(step: Step, devices: int) -> Step:
    """`step` over the first `devices` devices of all hosts by `pmap`; takes this host's share of
    the global batch, donates the state."""
    mapped = jax.pmap(
        step,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=jax.devices()[:devices],
    )
    local = len(_local(devices))
    return lambda state, batch: mapped(state, split(batch, local))


def shard_map_step(step: Step, devices: int) -> Step:
    """The same by `shard_map`.

    `check_vma=False` keeps the gradients of the replicated parameters apart for each device, as
    the step expects; JAX would add them before the step does.
    """
    images = NamedSharding(_mesh(devices), PartitionSpec(BATCH_AXIS))
    mapped = _shard_map(step, devices)

    def run(state: Any, batch: Batch) -> tuple[Any, Any]:
        return mapped(
            state,
            jax.tree.map(lambda x: jax.make_array_from_process_local_data(images, x), batch),
        )

    return run


def compile_step(step: Step, devices: int, state: Any, batch: Any) -> Any:
    """The step for abstract arguments, compiled and not run: JAX's `Compiled`."""
    return _shard_map(step, devices).lower(state, batch).compile()


def pmap_predict(model: Model, devices: int) -> Callable[[Variables, Any, Any], Detections]:
    """`model.predict` over the first `devices` devices of this host.

    Takes images and their sizes as NumPy arrays, of this host alone, and gives NumPy arrays back.
    """
    mapped = jax.pmap(
        model.predict,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0, 0),
        devices=jax.local_devices()[:devices],
    )

    def predict(variables: Variables, images: Any, image_size: Any) -> Detections:
        return merge(mapped(variables, *split((images, image_size), devices)))

    return predict


def replicate(tree: Tree, devices: int) -> Tree:
    """A copy of `tree` on each of the first `devices` devices of all hosts, laid out as
    `pmap_step` returns it: a step that is given another layout is compiled once more."""
    if jax.process_count() > 1:
        tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def to_global(tree: Tree, devices: int) -> Tree:
    """The same values as arrays of all hosts, which is how several of them write a checkpoint;
    `pmap` leaves each host with arrays of its own."""
    if jax.process_count() == 1:
        return tree
    everywhere = NamedSharding(_mesh(devices), PartitionSpec())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(everywhere, np.asarray(x), x.shape), tree
    )


def replicate_local(tree: Tree, devices: int) -> Tree:
    """A copy of `tree` on each of the first `devices` devices of this host, for its predictions."""
    mesh = Mesh(np.asarray(jax.local_devices()[:devices]), (BATCH_AXIS,))
    return jax.device_put(jax.tree.map(np.asarray, tree), NamedSharding(mesh, PartitionSpec()))


def check_batch_size(batch_size: int, devices: int, pieces: int = 1) -> None:
    """Refuses a global batch that the devices, and on each the pieces, cannot share evenly."""
    if batch_size % (devices * pieces):
        in_pieces = f" in {pieces} pieces each" if pieces > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} does not divide over {devices} devices{in_pieces}: "
            f"choose a multiple of {devices * pieces}"
        )


def split(batch: Tree, devices: int) -> Tree:
    """`[B, ...]` to `[devices, B / devices, ...]` in every array."""
    return jax.tree.map(lambda x: np.reshape(x, (devices, -1, *x.shape[1:])), batch)


def merge(batch: Tree) -> Tree:
    """`[devices, B / devices, ...]` on devices to NumPy `[B, ...]`."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), batch)


def _shard_map(step: Step, devices: int) -> Any:
    mapped = jax.shard_map(
        step,
        mesh=_mesh(devices),
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def _mesh(devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:devices]), (BATCH_AXIS,))


def _local(devices: int) -> list[jax.Device]:
    """Those of the first `devices` devices that are this host's."""
    return [d for d in jax.devices()[:devices] if d.process_index == jax.process_index()]
