"""Data parallelism: steps and predictions over devices and processes (pmap, shard_map).

The only file that names a parallel transform. The images of a global batch are split over the
devices along `BATCH_AXIS`; the state is the same on all. Callers pass and receive arrays without a
device axis.

Terms:
    share    the part of the global batch that a process feeds: consecutive images, in the order of
             the processes
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.model import BATCH_AXIS, Model, Variables
from jaxseg.types import Detections

Tree = TypeVar("Tree")
Step = Callable[[Any, Any], tuple[Any, Any]]
"""`(state, batch) -> (state, metrics)`, see `jaxseg.training.step`. A batch is any tree of arrays
whose leading axis is the images."""


class ParallelStep:
    """A step on several devices. It takes this process's share of the batch and donates the state.

    Args:
        mapped: the step, mapped over devices by a transform of JAX.
        put: returns a share of the batch as `mapped` takes it.
    """

    def __init__(self, mapped: Any, put: Callable[[Any], Any]):
        self._mapped, self._put = mapped, put

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Return the new state and the metrics."""
        return self._mapped(state, self._put(batch))

    def compile(self, state: Any, batch: Any) -> None:
        """Compile the step for the shapes of its arguments, without running it.

        JAX keeps the program for calls with such arguments. Of several processes all must call it,
        in the same order.
        """
        self._mapped.lower(state, self._put(batch)).compile()


def pmap_step(step: Step, devices: int) -> ParallelStep:
    """Map `step` over the first `devices` devices of all processes with `jax.pmap`."""
    mapped = jax.pmap(
        step,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=jax.devices()[:devices],
    )
    local = sum(d.process_index == jax.process_index() for d in jax.devices()[:devices])
    return ParallelStep(mapped, lambda batch: split(batch, local))


def shard_map_step(step: Step, devices: int) -> ParallelStep:
    """Map `step` like `pmap_step`, with `jax.shard_map`."""
    images = NamedSharding(_mesh(jax.devices()[:devices]), PartitionSpec(BATCH_AXIS))

    def put(batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(images, x), batch)

    return ParallelStep(_shard_map(step, devices), put)


def lower_step(step: Step, devices: int, state: Any, batch: Any) -> Any:
    """Lower the step for abstract arguments, for analysis; return JAX's `Lowered`."""
    return _shard_map(step, devices).lower(state, batch)


def pmap_predict(model: Model, devices: int) -> Callable[[Variables, Any, Any], Detections]:
    """Map `model.predict` over the first `devices` devices of this process.

    The result takes images and their sizes of this process alone. The arrays that it returns,
    `[devices, B / devices, ...]`, may still be being computed: `merge` waits for them.
    """
    mapped = jax.pmap(
        model.predict,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0, 0),
        devices=jax.local_devices()[:devices],
    )

    def predict(variables: Variables, images: Any, image_size: Any) -> Detections:
        return mapped(variables, *split((images, image_size), devices))

    return predict


def replicate(tree: Tree, devices: int) -> Tree:
    """Copy `tree` to each of the first `devices` devices of all processes.

    The layout is that of the state that `pmap_step` returns; another would compile the step twice.
    """
    if jax.process_count() > 1:
        tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree, _replicated(jax.devices()[:devices]))


def replicate_local(tree: Tree, devices: int) -> Tree:
    """Copy `tree` to each of the first `devices` devices of this process, to predict with."""
    local = _replicated(jax.local_devices()[:devices])
    return jax.device_put(jax.tree.map(np.asarray, tree), local)


def to_global(tree: Tree, devices: int) -> Tree:
    """Return the state that `pmap_step` returned as arrays that all processes share.

    Orbax needs them to write one checkpoint of several processes; `pmap` returns arrays that
    belong to a single process.
    """
    if jax.process_count() == 1:
        return tree
    sharding = _replicated(jax.devices()[:devices])
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), x.shape), tree
    )


def check_batch_size(batch_size: int, devices: int, grad_accum_steps: int = 1) -> None:
    """Raise ValueError if a global batch does not divide evenly over devices and microbatches."""
    if batch_size % (devices * grad_accum_steps):
        microbatches = ""
        if grad_accum_steps > 1:
            microbatches = f" with {grad_accum_steps} microbatches each"
        raise ValueError(
            f"batch_size {batch_size} does not divide over {devices} devices{microbatches}: "
            f"choose a multiple of {devices * grad_accum_steps}"
        )


def split(batch: Tree, devices: int) -> Tree:
    """Reshape every array from `[B, ...]` to `[devices, B / devices, ...]`."""
    return jax.tree.map(lambda x: np.reshape(x, (devices, -1, *x.shape[1:])), batch)


def merge(batch: Tree) -> Tree:
    """Copy every array `[devices, B / devices, ...]` to a NumPy array `[B, ...]`, once computed."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(batch))


def _shard_map(step: Step, devices: int) -> Any:
    mapped = jax.shard_map(
        step,
        mesh=_mesh(jax.devices()[:devices]),
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
        out_specs=PartitionSpec(),
        # With the check, JAX would sum the gradients of the replicated parameters over the devices
        # itself, before the step does so.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def _replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """Return the sharding of an array with a full copy on each device."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (BATCH_AXIS,))
