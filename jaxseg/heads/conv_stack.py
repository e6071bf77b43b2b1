"""The convolutions that heads on pooled features begin with."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.nn.activation import relu
from jaxseg.nn.conv import Conv
from jaxseg.nn.norm import NormKind, make_norm
from jaxseg.nn.resnet import he_normal


def conv_stack(
    x: Float[Array, "R p p _"],
    valid: Bool[Array, " R"],
    *,
    num_convs: int,
    channels: int,
    norm: NormKind | None,
    train: bool,
) -> Float[Array, "R p p _"]:
    """Apply `num_convs` times a 3x3 convolution, the normalisation if there is one, and a ReLU.

    Call it in a module's compact method: the layers `conv1`, `norm1`, ... become that module's
    own. Statistics are taken over the RoIs that are `valid`.
    """
    mask = valid[:, None, None, None] & jnp.ones((1, *x.shape[1:3], 1), bool)
    for number in range(1, num_convs + 1):
        x = Conv(
            channels,
            (3, 3),
            padding=1,
            use_bias=norm is None,
            dtype=x.dtype,
            kernel_init=he_normal,
            name=f"conv{number}",
        )(x)
        if norm is not None:
            x = make_norm(norm, name=f"norm{number}")(x, mask, train)
        x = relu(x)
    return x
