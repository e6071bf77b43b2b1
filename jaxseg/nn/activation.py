"""Activation functions whose gradients need their result alone.

JAX's gradient of a ReLU keeps its argument, and the next layer's keeps its result: both would stay
in memory from the forward to the backward pass. On a CPU the result is also materialised: XLA would
compute it again from the argument wherever it is read, and so keep both.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxseg.ops.scheduling import materialize


@jax.custom_vjp
def relu(
    x: Float[Array, "*shape"], mask: Bool[Array, "..."] | None = None
) -> Float[Array, "*shape"]:
    """Return `max(x, 0)`, and 0 outside a mask if there is one; the gradient is 0 where `x` is 0.

    The mask has the shape of `x`, or size 1 along some axes, as the masks of `jaxseg.nn.padding`.
    """
    y = jnp.maximum(x, 0)
    y = y if mask is None else jnp.where(mask, y, 0)
    return lax.platform_dependent(y, x, cpu=materialize, default=lambda y, x: y)


def _forward(x: Array, mask: Array | None) -> tuple[Array, Array]:
    y = relu(x, mask)
    return y, y


def _backward(y: Array, gradient: Array) -> tuple[Array, None]:
    return jnp.where(y > 0, gradient, 0), None


relu.defvjp(_forward, _backward)
