"""Masks of the part of a feature map that is image, not padding.

Terms:
    padded_size  the size to which other codebases pad an image without a batch: its true size
                 rounded up to a multiple (32 by default). A batch may pad it further
    extent       the padded size in cells of a feature map, `ceil(padded_size / stride)`
    mask         [B, h, w, 1] bool, true inside the extent

A convolution over zeros outside the extent gives the result of an image that is padded to
`padded_size` alone. So every spatial operation here gets maps that are zero outside the extent,
and a batch's padding never changes a result.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def round_up_size(
    image_size: Int[Array, "B 2"], size_divisibility: int | tuple[int, int]
) -> Int[Array, "B 2"]:
    """Round `(height, width)` up to a multiple, one for both sides or one for each."""
    step = jnp.broadcast_to(jnp.asarray(size_divisibility, jnp.int32), (1, 2))
    return -(-image_size // step) * step


def level_extent(padded_size: Int[Array, "*B 2"], stride: int) -> Int[Array, "*B 2"]:
    """Return the padded size in cells of a map with this stride; partial cells count."""
    return -(-padded_size // stride)


def extent_mask(extent: Int[Array, "B 2"], height: int, width: int) -> Bool[Array, "B h w 1"]:
    """Mark the cells of a `height x width` map inside each image's extent."""
    rows = jnp.arange(height)[None, :] < extent[:, :1]  # [B, h]
    columns = jnp.arange(width)[None, :] < extent[:, 1:]  # [B, w]
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def zero_outside(
    x: Float[Array, "B h w C"], mask: Bool[Array, "B h w _"]
) -> Float[Array, "B h w C"]:
    """Set everything outside the mask, `[B, h, w, 1]` or with the channels of `x`, to zero."""
    return jnp.where(mask, x, 0)
