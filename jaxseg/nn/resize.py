"""Bilinear resizing and coordinates of feature maps whose extents differ within a batch.

Each image's extent (see `jaxseg.nn.padding`) is resized like a map of its own: border cells are
repeated, so resizing never reads padding. Cells outside the new extent are zero. All functions
are `align_corners=False` without antialiasing, as torch's `interpolate`, unless they say so.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.nn.padding import extent_mask, zero_outside
from jaxseg.ops.bilinear import bilinear_weights


def resize(
    x: Float[Array, "B h w C"],
    extent: Int[Array, "B 2"],
    new_extent: Int[Array, "B 2"],
    shape: tuple[int, int],
    *,
    align_corners: bool = False,
) -> Float[Array, "B H W C"]:
    """Resize each image's `extent` to its `new_extent`, on maps of `shape` `(H, W)`.

    With `align_corners`, the centres of the first and last cells stay where they are.
    """
    highest = jax.lax.Precision.HIGHEST
    rows = _weights(extent[:, 0], new_extent[:, 0], x.shape[1], shape[0], align_corners)
    columns = _weights(extent[:, 1], new_extent[:, 1], x.shape[2], shape[1], align_corners)
    resized = jnp.einsum("bHh,bhwc->bHwc", rows, x.astype(jnp.float32), precision=highest)
    resized = jnp.einsum("bWw,bHwc->bHWc", columns, resized, precision=highest)
    return resized.astype(x.dtype)


def _weights(
    size: Int[Array, " B"],
    new_size: Int[Array, " B"],
    cells: int,
    new_cells: int,
    align_corners: bool,
) -> Float[Array, "B new_cells cells"]:
    """Return the weights of a map's cells in each new cell, along one axis."""
    size, new_size = size.astype(jnp.float32), new_size.astype(jnp.float32)
    new = jnp.arange(new_cells, dtype=jnp.float32)[None, :]
    if align_corners:
        position = new * ((size - 1) / jnp.maximum(new_size - 1, 1))[:, None]
    else:
        position = (new + 0.5) * (size / new_size)[:, None] - 0.5
    position = jnp.clip(position, 0, (size - 1)[:, None])
    weights = bilinear_weights(position, cells)  # [B, new_cells, cells]
    inside = (new < new_size[:, None])[..., None]  # [B, new_cells, 1]
    return jnp.where(inside, weights, 0)


def upsample2x(
    x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]
) -> Float[Array, "B 2*h 2*w C"]:
    """Resize to twice the extent: each new cell is 3/4 of a cell and 1/4 of its neighbour."""
    batch, height, width, channels = x.shape
    for axis in (1, 2):
        cell = jnp.arange(x.shape[axis]).reshape((-1, 1, 1) if axis == 1 else (1, -1, 1))[None]
        last = extent[:, axis - 1].reshape(-1, 1, 1, 1) - 1
        before = jnp.where(cell == 0, x, jnp.roll(x, 1, axis))
        after = jnp.where(cell == last, x, jnp.roll(x, -1, axis))
        halves = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        x = jnp.stack(halves, axis + 1).reshape(
            batch, 2 * height, width if axis == 1 else 2 * width, channels
        )
    return zero_outside(x, extent_mask(2 * extent, 2 * height, 2 * width))


def repeat_border(x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
    """Repeat the border cells of each image's extent in all cells outside it.

    What resizes the whole map then never reads padding.
    """

    def one_image(x: Array, extent: Array) -> Array:
        rows = jnp.minimum(jnp.arange(x.shape[0]), extent[0] - 1)
        columns = jnp.minimum(jnp.arange(x.shape[1]), extent[1] - 1)
        return x[rows][:, columns]

    return jax.vmap(one_image)(x, extent)


def coord_grid(extent: Int[Array, "B 2"], height: int, width: int) -> Float[Array, "B h w 2"]:
    """Return x and y of every cell, from -1 to 1 over the extent (CoordConv, arXiv 1807.03247)."""

    def axis(size: Array, cells: int) -> Array:
        step = 2 / jnp.maximum(size - 1, 1).astype(jnp.float32)
        return jnp.arange(cells, dtype=jnp.float32)[None, :] * step[:, None] - 1

    y = jnp.broadcast_to(axis(extent[:, 0], height)[:, :, None], (len(extent), height, width))
    x = jnp.broadcast_to(axis(extent[:, 1], width)[:, None, :], (len(extent), height, width))
    return zero_outside(jnp.stack([x, y], axis=-1), extent_mask(extent, height, width))


def append_coords(
    x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]
) -> Float[Array, "B h w C+2"]:
    """Append `coord_grid` as two channels."""
    coords = coord_grid(extent, *x.shape[1:3]).astype(x.dtype)
    return jnp.concatenate([x, coords], axis=-1)
