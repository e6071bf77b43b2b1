"""Tell XLA's CPU compiler when to compute a value, and how often, to save memory.

It computes whatever it can as soon as it can, so that what depends on little, such as zeros to add
to or a transposed copy for a gradient, takes memory from the beginning of a training step. It
computes cheap values again wherever they are read, so that a gradient keeps what they were computed
from as well. It drops `jax.lax.optimization_barrier` before it decides either, but it cannot drop
what depends on data. These functions are for code that is compiled for CPUs alone.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxseg.ops.batching import largest_of_images


def wait_for(x: Array, other: Float[Array, "..."]) -> Array:
    """Return `x`, which the compiled program computes after `other`.

    The choice between `x` and zeros costs nothing where it is fused into what reads the result.
    """
    return jnp.where(_never(other), jnp.zeros_like(x), x)


def zeros_after(shape: tuple[int, ...], other: Float[Array, "..."]) -> Array:
    """Return zeros of the dtype of `other`, which the compiled program makes after it."""
    return jnp.full(shape, _never(other).astype(other.dtype))


def compute_once(x: Array, earlier: Float[Array, "..."]) -> Array:
    """Return `x`, which the compiled program holds in memory for all that read the result.

    It passes through a loop without iterations, which nothing is fused with. `earlier` is an array
    that is computed before `x`: the number of iterations depends on it.
    """
    iterations = largest_of_images(_never(earlier).astype(jnp.int32))
    return lax.fori_loop(0, iterations, lambda _, y: -y, x)


def _never(x: Float[Array, "..."]) -> Bool[Array, ""]:
    """Return False, in a way that the compiler does not see through."""
    if not x.size:
        return jnp.asarray(False)
    first = x[(0,) * x.ndim]
    return jnp.isnan(first) & jnp.isinf(first)
