"""Compute an operation for several images one after the other, instead of all at once.

A TPU's fast memory holds the maps of one image, but not those of a batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def one_by_one(of_image: Callable[..., Any]) -> Callable[..., Any]:
    """Return `of_image`, which `jax.vmap` calls in a loop over the images.

    JAX cannot differentiate the result: use it in the two functions of a `jax.custom_vjp`.
    """
    mapped = jax.custom_batching.custom_vmap(of_image)

    @mapped.def_vmap
    def of_images(images: int, is_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def batch(x: Array, is_batched: bool) -> Array:
            return x if is_batched else jnp.broadcast_to(x, (images, *x.shape))

        arguments = jax.tree.map(batch, arguments, tuple(is_batched))
        result = jax.lax.map(lambda image: of_image(*image), arguments)
        return result, jax.tree.map(lambda _: True, result)

    return mapped
