"""Where a feature map ends and padding begins.

Terms:
    canvas   the part of a padded image that counts as image: its true size rounded up to a
             multiple (32 by default, as the references pad a single image)
    extent   the canvas measured in cells of a feature map, `ceil(padded_size / stride)`
    mask     [B, h, w, 1] bool, true inside the extent

A convolution that sees zeros beyond the extent computes what it would compute on the
canvas alone. So every spatial operation here is given maps that are zero in the padding,
and how far an image was padded never changes a result.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def round_up_size(
    image_size: Int[Array, "B 2"], multiple: int | tuple[int, int]
) -> Int[Array, "B 2"]:
    """`(height, width)` rounded up to `multiple`, one number or one for each side."""
    step = jnp.broadcast_to(jnp.asarray(multiple), (1, 2))
    return -(-image_size // step) * step


def level_extent(padded_size: Int[Array, "*B 2"], stride: int) -> Int[Array, "*B 2"]:
    """The canvas in cells of a map with this stride; a cell that is partly inside counts."""
    return -(-padded_size // stride)


def extent_mask(extent: Int[Array, "B 2"], height: int, width: int) -> Bool[Array, "B h w 1"]:
    """Which cells of a `height x width` map lie inside each image's extent."""
    rows = jnp.arange(height)[None, :] < extent[:, :1]
    columns = jnp.arange(width)[None, :] < extent[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def zero_outside(
    x: Float[Array, "B h w C"], mask: Bool[Array, "B h w 1"]
) -> Float[Array, "B h w C"]:
    """`x` with everything outside the extent set to zero."""
    return jnp.where(mask, x, 0)
