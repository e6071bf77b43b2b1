"""Bilinear resizing and coordinates of feature maps whose extents differ within a batch.

An image's extent (see `jaxseg.nn.padding`) is resized as if it were a map of its own: beyond its
last cell comes that cell again, not the padding. What lies outside the new extent is zero.
All are `align_corners=False` without antialiasing, as torch's `interpolate`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.nn.padding import extent_mask, zero_outside


def resize(
    x: Float[Array, "B h w C"],
    extent: Int[Array, "B 2"],
    new_extent: Int[Array, "B 2"],
    shape: tuple[int, int],
) -> Float[Array, "B H W C"]:
    """Each image's `extent` to its `new_extent`, on maps of `shape` `(H, W)`."""
    highest = jax.lax.Precision.HIGHEST
    rows = _weights(extent[:, 0], new_extent[:, 0], x.shape[1], shape[0])
    columns = _weights(extent[:, 1], new_extent[:, 1], x.shape[2], shape[1])
    resized = jnp.einsum("bHh,bhwc->bHwc", rows, x, precision=highest)
    resized = jnp.einsum("bWw,bHwc->bHWc", columns, resized, precision=highest)
    return resized.astype(x.dtype)


def _weights(
    size: Int[Array, " B"], new_size: Int[Array, " B"], cells: int, new_cells: int
) -> Float[Array, "B new_cells cells"]:
    scale = size.astype(jnp.float32) / new_size.astype(jnp.float32)
    new = jnp.arange(new_cells, dtype=jnp.float32)[None, :]
    position = jnp.clip((new + 0.5) * scale[:, None] - 0.5, 0, (size - 1)[:, None])
    cell = jnp.arange(cells, dtype=jnp.float32)[None, None, :]
    weights = jnp.maximum(1 - jnp.abs(position[..., None] - cell), 0)
    return weights * (new < new_size[:, None])[..., None]


def upsample2x(
    x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]
) -> Float[Array, "B 2*h 2*w C"]:
    """`resize` to twice the extent: three quarters of a cell and one of its neighbour."""
    batch, height, width, channels = x.shape
    for axis in (1, 2):
        place = jnp.arange(x.shape[axis]).reshape((-1, 1, 1) if axis == 1 else (1, -1, 1))[None]
        last = extent[:, axis - 1].reshape(-1, 1, 1, 1) - 1
        before = jnp.where(place == 0, x, jnp.roll(x, 1, axis))
        after = jnp.where(place == last, x, jnp.roll(x, -1, axis))
        halves = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        x = jnp.stack(halves, axis + 1).reshape(
            batch, 2 * height, width if axis == 1 else 2 * width, channels
        )
    return zero_outside(x, extent_mask(2 * extent, 2 * height, 2 * width))


def coord_grid(extent: Int[Array, "B 2"], height: int, width: int) -> Float[Array, "B h w 2"]:
    """x and y of every cell, from -1 to 1 over the extent (Liu et al. 2018, arXiv 1807.03247)."""

    def axis(size: Array, cells: int) -> Array:
        step = 2 / jnp.maximum(size - 1, 1).astype(jnp.float32)
        return jnp.arange(cells, dtype=jnp.float32)[None, :] * step[:, None] - 1

    y = jnp.broadcast_to(axis(extent[:, 0], height)[:, :, None], (len(extent), height, width))
    x = jnp.broadcast_to(axis(extent[:, 1], width)[:, None, :], (len(extent), height, width))
    return zero_outside(jnp.stack([x, y], axis=-1), extent_mask(extent, height, width))
