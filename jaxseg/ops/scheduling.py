"""Control when, and how often, XLA's CPU compiler computes a value, to save memory.

XLA computes a value as soon as its operands are there. What needs few of them, such as zeros to add
to or a transposed copy for a gradient, therefore takes memory from the start of a training step. It
also computes cheap values again wherever they are read, so that their operands stay in memory too.
`jax.lax.optimization_barrier` is no remedy: XLA drops it before it decides either. It cannot drop a
dependence on data, so these functions add one.

They are for code that is compiled for CPUs alone (`jax.lax.platform_dependent`).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxseg.ops.batching import max_over_images


def compute_after(x: Array, earlier: Float[Array, "..."]) -> Array:
    """Return `x`, computed after `earlier`.

    The choice between `x` and zeros costs nothing where it is fused into what reads the result.
    """
    return jnp.where(_never(earlier), jnp.zeros_like(x), x)


def zeros_after(shape: tuple[int, ...], earlier: Float[Array, "..."]) -> Array:
    """Return zeros of the dtype of `earlier`, made after it."""
    return jnp.full(shape, _never(earlier).astype(earlier.dtype))


def materialize(x: Array, earlier: Float[Array, "..."]) -> Array:
    """Return `x`, computed once and held in memory for all that read it.

    It passes through a loop without iterations, which XLA fuses with nothing. The number of
    iterations depends on `earlier`, so that XLA cannot replace it by 0: give an array that is
    computed before `x`.
    """
    iterations = max_over_images(_never(earlier).astype(jnp.int32))
    return lax.fori_loop(0, iterations, lambda _, y: -y, x)


def _never(x: Float[Array, "..."]) -> Bool[Array, ""]:
    """Return False by an expression that XLA does not simplify: NaN and infinite at once."""
    if not x.size:
        return jnp.asarray(False)
    first = x[(0,) * x.ndim]
    return jnp.isnan(first) & jnp.isinf(first)
