"""The only file that names a parallel transform: how a step and a prediction meet devices.

The images of a global batch are split over the local devices along `BATCH_AXIS`; the state
is the same on all. Callers pass and get ordinary arrays, without a device axis.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.model import BATCH_AXIS, Model, Variables
from jaxseg.training.step import Metrics, TrainState
from jaxseg.types import Batch, Detections

Tree = TypeVar("Tree")
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def parallel_step(step: Step, devices: int) -> Step:
    """`step` over the first `devices` local devices; takes the global batch, donates the state."""
    mapped = jax.pmap(
        step,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=jax.local_devices()[:devices],
    )
    return lambda state, batch: mapped(state, split(batch, devices))


def parallel_predict(model: Model, devices: int) -> Callable[[Variables, Any, Any], Detections]:
    """`model.predict` over the first `devices` local devices, on a global batch.

    Takes the images and their sizes as NumPy arrays and gives NumPy arrays back.
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
    """A copy of `tree` on each device, laid out as `parallel_step` returns it: a step that is
    given another layout is compiled once more."""
    mesh = Mesh(np.asarray(jax.local_devices()[:devices]), (BATCH_AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def check_batch_size(batch_size: int, devices: int) -> None:
    """Refuses a global batch that the devices cannot share evenly."""
    if batch_size % devices:
        raise ValueError(
            f"batch_size {batch_size} does not divide over {devices} devices: "
            f"choose a multiple of {devices}"
        )


def split(batch: Tree, devices: int) -> Tree:
    """`[B, ...]` to `[devices, B / devices, ...]` in every array."""
    return jax.tree.map(lambda x: np.reshape(x, (devices, -1, *x.shape[1:])), batch)


def merge(batch: Tree) -> Tree:
    """`[devices, B / devices, ...]` on devices to NumPy `[B, ...]`."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), batch)
