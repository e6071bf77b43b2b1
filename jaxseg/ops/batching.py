"""Replace what `jax.vmap` over images makes of an operation, where that is slow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def one_by_one(of_image: Callable[..., Any]) -> Callable[..., Any]:
    """Return `of_image`, which `jax.vmap` then calls for one image after the other.

    A TPU's fast memory holds the maps of one image, but not those of a batch. JAX cannot
    differentiate the result: use it in the two functions of a `jax.custom_vjp`.
    """
    mapped = jax.custom_batching.custom_vmap(of_image)

    @mapped.def_vmap
    def of_images(images: int, is_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        arguments = broadcast_images(images, is_batched, arguments)
        result = jax.lax.map(lambda image: of_image(*image), arguments)
        return result, jax.tree.map(lambda _: True, result)

    return mapped


def broadcast_images(images: int, is_batched: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a `custom_vmap` rule, all of them with a first axis of images.

    `is_batched` is as JAX passes it: which arrays of `arguments` have that axis already.
    """

    def broadcast(x: Array, has_images: bool) -> Array:
        return x if has_images else jnp.broadcast_to(x, (images, *x.shape))

    return jax.tree.map(broadcast, arguments, tuple(is_batched))


@jax.custom_batching.custom_vmap
def max_over_images(number: Int[Array, ""]) -> Int[Array, ""]:
    """Return `number`; under `jax.vmap`, the largest of all images.

    Use it for the number of iterations of a loop in which additional iterations change nothing. If
    each image had its own number, `jax.vmap` would copy all that the loop carries in every
    iteration, to keep it unchanged for the images that are done.
    """
    return number


@max_over_images.def_vmap
def _max(images: int, is_batched: Any, numbers: Int[Array, " images"]) -> tuple[Array, bool]:
    return max_over_images(numbers.max()), False
