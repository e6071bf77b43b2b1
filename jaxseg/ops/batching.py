"""What `jax.vmap` over images does with an operation, where its own way is slow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def one_by_one(of_image: Callable[..., Any]) -> Callable[..., Any]:
    """Return `of_image`, which `jax.vmap` calls in a loop over the images.

    A TPU's fast memory holds the maps of one image, but not those of a batch.
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


@jax.custom_batching.custom_vmap
def largest_of_images(number: Int[Array, ""]) -> Int[Array, ""]:
    """Return `number`, under `jax.vmap` the largest of all images.

    For the number of iterations of a loop whose later ones change nothing: with a number for each
    image, `jax.vmap` copies all that the loop carries in every iteration, to keep it for some.
    """
    return number


@largest_of_images.def_vmap
def _largest(images: int, is_batched: Any, numbers: Int[Array, " images"]) -> tuple[Array, bool]:
    return largest_of_images(numbers.max()), False
