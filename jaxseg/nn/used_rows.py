"""Sum a loss over the rows of a padded array that are used, without computing the others.

With static shapes, a head computes every slot, and most may be empty: Mask R-CNN has 128 slots for
the positive RoIs of an image, of which a few are used early in training. On a CPU, rows are
computed in chunks, and chunks without a used row are left out. On GPUs and TPUs all rows are
computed at once: small chunks would leave most of such a chip idle (not measured).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxseg.ops.scheduling import zeros_after

CHUNK_ROWS = 16
"""Rows of a chunk. The maps of 16 RoIs, 3,136 cells, are enough for a CPU's fastest kernels."""

Total = Callable[[Any, Array, Any], Array]
"""`total(variables, x, others)`: a number, the sum over the rows of `x` and of the arrays in
`others`, in which rows that are not used count 0."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_used(
    total: Total, variables: Any, x: Float[Array, " R *_"], others: Any, used: Bool[Array, " R"]
) -> Float[Array, ""]:
    """Return `total(variables, x, others)`; `variables` and `x` get gradients.

    Args:
        total: the function; it must not close over traced arrays.
        variables: what all rows share, such as a head's parameters.
        x: the rows that get a gradient.
        others: a tree of arrays with as many rows, which get none.
        used: False for rows that count 0.
    """

    def all_rows(variables: Any, x: Array, others: Any, used: Array) -> Array:
        return total(variables, x, others)

    def chunks(variables: Any, x: Array, others: Any, used: Array) -> Array:
        def add(number: Array, result: Array) -> Array:
            return result + total(variables, take(x, number), take(others, number))

        take, loop = _used_chunks(used)
        return loop(add, jnp.zeros((), jnp.float32))

    return lax.platform_dependent(variables, x, others, used, cpu=chunks, default=all_rows)


def _forward(
    total: Total, variables: Any, x: Array, others: Any, used: Array
) -> tuple[Array, tuple[Any, Array]]:
    """Compute the sum together with its gradients: a loop of unknown length has no reverse."""
    gradient = jax.value_and_grad(total, argnums=(0, 1))

    def all_rows(variables: Any, x: Array, others: Any, used: Array) -> tuple[Array, tuple]:
        return gradient(variables, x, others)

    def chunks(variables: Any, x: Array, others: Any, used: Array) -> tuple[Array, tuple]:
        def add(number: Array, sums: tuple) -> tuple:
            value, of_variables, of_x = sums
            rows = take(x, number)
            more, (of_these, of_rows) = gradient(variables, rows, take(others, number))
            of_x = lax.dynamic_update_slice_in_dim(of_x, of_rows, number * len(rows), axis=0)
            return value + more, jax.tree.map(jnp.add, of_variables, of_these), of_x

        take, loop = _used_chunks(used)
        zeros = jax.tree.map(jnp.zeros_like, variables), zeros_after(x.shape, x)
        value, *gradients = loop(add, (jnp.zeros((), jnp.float32), *zeros))
        return value, tuple(gradients)

    return lax.platform_dependent(variables, x, others, used, cpu=chunks, default=all_rows)


def _backward(total: Total, gradients: tuple[Any, Array], cotangent: Array) -> tuple:
    scaled = jax.tree.map(
        lambda g: (cotangent * g.astype(cotangent.dtype)).astype(g.dtype), gradients
    )
    return *scaled, None, None


sum_over_used.defvjp(_forward, _backward)


def _used_chunks(used: Bool[Array, " R"]) -> tuple[Callable, Callable]:
    """Return two functions for the chunks of rows that have a used one.

    `take(tree, number)` takes the rows of a chunk; `loop(add, start)` returns the result of
    `result = add(number, result)` for the number of each such chunk.
    """
    rows = CHUNK_ROWS if used.shape[0] % CHUNK_ROWS == 0 else used.shape[0]
    has_used = used.reshape(-1, rows).any(1)  # [chunks]
    order = jnp.argsort(~has_used, stable=True)  # chunks with a used row first

    def take(tree: Any, number: Array) -> Any:
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, number * rows, rows), tree)

    def loop(add: Callable, start: Any) -> Any:
        return lax.fori_loop(0, has_used.sum(), lambda i, result: add(order[i], result), start)

    return take, loop
