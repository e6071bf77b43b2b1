"""Build a `jaxseg.model.Model` from a detector's layers, loss and prediction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from jaxseg.model import Model, Variables, image_shape
from jaxseg.nn.backbone import BackboneConfig
from jaxseg.nn.freezing import FROZEN, merge_frozen, split_frozen
from jaxseg.types import (
    Average,
    Batch,
    Detections,
    Losses,
    LossTerm,
    TargetSpec,
    padded_shape,
    unpack_masks,
)

COARSEST_STRIDE = 32
"""Stride of C5: images are padded to multiples of it."""


def build_model(
    net: nn.Module,
    backbone: BackboneConfig,
    targets: TargetSpec,
    size_divisibility: int | tuple[int, int],
    *,
    loss: Callable[[Any, Batch, jax.Array], tuple[dict[str, LossTerm], dict[str, Average]]],
    predict: Callable[[Any, jax.Array, jax.Array], Detections],
) -> Model:
    """Return a model whose layers are those of `net`.

    `loss(net, batch, key)` returns terms and metrics, `predict(net, images, image_size)` the
    detections; both get the module bound to its variables. Images must be padded to a multiple of
    `size_divisibility` and of 32. The module has a method `init_layers(images, image_size)` that
    calls every layer once, and its backbone is called `backbone`; the layers that its config
    freezes move to the collection `"frozen"`.
    """

    def init(key: jax.Array, batch_or_shape: Batch | tuple[int, ...], /) -> Variables:
        _, height, width, _ = image_shape(batch_or_shape)
        _check_shape((height, width))
        images = jnp.zeros((1, height, width, 3), jnp.uint8)
        size = jnp.asarray([[height, width]], jnp.int32)
        variables = net.init(key, images, size, method="init_layers")
        return split_frozen_backbone(backbone, variables)

    def model_loss(variables: Variables, batch: Batch, key: jax.Array, /) -> Losses:
        _check_shape(padded_shape(batch.images), size_divisibility)
        _check_targets(batch, targets)
        run = nn.apply(loss, net, mutable=["batch_stats"])
        try:
            results = run(merge_frozen(variables), unpack_masks(batch, targets), key)
        except ScopeParamShapeError as error:
            if batch.images.shape[3] == 3:
                raise
            raise ValueError(
                f"the model's backbone, {type(backbone).__name__}, takes pixels, and the batch has "
                "blocks of 2x2 pixels: set data.space_to_depth to False"
            ) from error
        (terms, metrics), state = results
        frozen = {name: value for name, value in variables.items() if name == FROZEN}
        return Losses(terms, metrics, state | frozen)

    def model_predict(
        variables: Variables, images: jax.Array, image_size: jax.Array, /
    ) -> Detections:
        _check_shape(padded_shape(images), size_divisibility)
        return nn.apply(predict, net)(merge_frozen(variables), images, image_size)

    return Model(init, model_loss, model_predict, targets)


def split_frozen_backbone(backbone: BackboneConfig, variables: Variables) -> dict[str, Any]:
    """Move the backbone's untrained layers to the collection `"frozen"`."""
    return split_frozen(
        variables, lambda path: path[0] == "backbone" and backbone.is_frozen(path[1])
    )


def _check_shape(shape: tuple[int, ...], size_divisibility: int | tuple[int, int] = 1) -> None:
    for multiple in (COARSEST_STRIDE, size_divisibility):
        if (np.asarray(shape) % multiple).any():
            raise ValueError(
                f"images are padded to {shape[0]}x{shape[1]}, but the model needs multiples of "
                f"{multiple}: change the buckets"
            )


def _check_targets(batch: Batch, targets: TargetSpec) -> None:
    needed = {
        "masks": targets.masks is not None,
        "centers": targets.centers,
        "semantic": targets.semantic_stride is not None,
    }
    missing = [
        name for name, is_needed in needed.items() if is_needed and getattr(batch, name) is None
    ]
    if missing:
        raise ValueError(
            f"the model learns from {' and '.join(missing)}, but the batch has none: "
            "make batches with the model's `targets`"
        )
