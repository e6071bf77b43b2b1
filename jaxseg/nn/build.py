"""A detector's layers and what is done with them, as a `jaxseg.model.Model`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.model import Model, Variables, image_shape
from jaxseg.nn.freezing import FROZEN, merge_frozen, split_frozen
from jaxseg.nn.resnet import ResNetConfig, is_frozen
from jaxseg.types import Batch, Detections, LossTerm, MaskSpec, unpack_masks

COARSEST_STRIDE = 32
"""Stride of C5: images are padded to multiples of it."""


def build_model(
    net: nn.Module,
    backbone: ResNetConfig,
    needs: MaskSpec,
    canvas_multiple: int | tuple[int, int],
    *,
    loss: Callable[[Any, Batch, jax.Array], dict[str, LossTerm]],
    predict: Callable[[Any, jax.Array, jax.Array], Detections],
) -> Model:
    """A model whose layers are those of `net`.

    `loss(net, batch, key)` and `predict(net, images, image_size)` get the module bound to its
    variables. Images must be padded to a multiple of `canvas_multiple` and of 32. The module has
    a method `init_layers(images, image_size)` that runs every layer once, and its ResNet is
    called `backbone`; what `backbone` freezes is set apart.
    """

    def init(key: jax.Array, batch_or_shape: Batch | tuple[int, ...]) -> Variables:
        _, height, width, _ = image_shape(batch_or_shape)
        _check_shape((height, width))
        images = jnp.zeros((1, height, width, 3), jnp.uint8)
        size = jnp.asarray([[height, width]], jnp.int32)
        variables = net.init(key, images, size, method="init_layers")
        return split_frozen_backbone(backbone, variables)

    def loss_of(
        variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[dict[str, LossTerm], Variables]:
        _check_shape(batch.images.shape[1:3], canvas_multiple)
        run = nn.apply(loss, net, mutable=["batch_stats"])
        terms, new_state = run(merge_frozen(variables), unpack_masks(batch, needs), key)
        return terms, new_state | {k: v for k, v in variables.items() if k == FROZEN}

    def predict_of(variables: Variables, images: jax.Array, image_size: jax.Array) -> Detections:
        _check_shape(images.shape[1:3], canvas_multiple)
        return nn.apply(predict, net)(merge_frozen(variables), images, image_size)

    return Model(init, loss_of, predict_of, needs)


def split_frozen_backbone(backbone: ResNetConfig, variables: Variables) -> dict[str, Any]:
    """The variables with the backbone's untrained layers in a collection of their own."""
    return split_frozen(
        variables, lambda path: path[0] == "backbone" and is_frozen(backbone, path[1])
    )


def _check_shape(shape: tuple[int, ...], canvas_multiple: int | tuple[int, int] = 1) -> None:
    for multiple in (COARSEST_STRIDE, canvas_multiple):
        if (np.asarray(shape) % multiple).any():
            raise ValueError(
                f"images are padded to {shape[0]}x{shape[1]}; the model needs multiples of "
                f"{multiple}: choose such a canvas"
            )
