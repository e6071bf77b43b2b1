"""Choose how `jax.vmap` computes an operation for several images.

    vmap    for all at once
    map     for one after the other, in a loop
    auto    `map` on a TPU, `vmap` elsewhere

A TPU's fast memory holds the maps of one image, but not those of a batch. The results differ at
most by rounding.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

Batching = Literal["auto", "vmap", "map"]


def for_images(of_image: Callable[..., Array], batching: Batching) -> Callable[..., Array]:
    """Return `of_image`, computed under `jax.vmap` as `batching` says.

    JAX cannot differentiate the result: use it in the two functions of a `jax.custom_vjp`.
    """

    def one_by_one(*arguments: Any) -> Array:
        return jax.lax.map(lambda image: of_image(*image), arguments)

    at_once = jax.vmap(of_image)
    batched = jax.custom_batching.custom_vmap(of_image)

    @batched.def_vmap
    def of_images(images: int, is_batched: Any, *arguments: Any) -> tuple[Array, bool]:
        def batch(x: Array, is_batched: bool) -> Array:
            return x if is_batched else jnp.broadcast_to(x, (images, *x.shape))

        arguments = jax.tree.map(batch, arguments, tuple(is_batched))
        if batching == "auto" and images > 1:
            result = jax.lax.platform_dependent(*arguments, tpu=one_by_one, default=at_once)
        else:
            result = (one_by_one if batching == "map" else at_once)(*arguments)
        return result, True

    return batched
