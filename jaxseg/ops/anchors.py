"""Anchors: boxes of fixed sizes and shapes around every cell of a feature map.

The anchors of one cell are centred on the origin; cell (y, x) of a map with stride s shifts
them by (x s, y s), its top-left corner, as torchvision and Detectron2 (offset 0) do.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def cell_anchors(
    sizes: Sequence[float | int], aspect_ratios: Sequence[float | int], *, rounded: bool
) -> Float[np.ndarray, "A 4"]:
    """The A = sizes x ratios boxes of a cell, in the order (ratio, size) of torchvision.

    An anchor of size s and aspect ratio r (height over width) has the area s * s. Torchvision
    rounds the coordinates to integers, halves to the even one (`rounded=True`); Detectron2 and
    MMDetection do not.
    """
    size = np.asarray(sizes, np.float32)[None, :]
    root = np.sqrt(np.asarray(aspect_ratios, np.float32))[:, None]
    width, height = (size / root).reshape(-1), (size * root).reshape(-1)
    boxes = np.stack([-width, -height, width, height], axis=1) / 2
    return np.round(boxes) if rounded else boxes


def grid_anchors(
    cell: Float[np.ndarray, "A 4"],
    grid_shape: tuple[int, int],
    stride: int | tuple[int, int] | Int[Array, " 2"],
) -> Float[Array, "K 4"]:
    """The cell's anchors at every cell of a `(height, width)` map, in the order (y, x, anchor).

    `stride` is one number or `(vertical, horizontal)`: torchvision's is the image's size over
    the map's, rounded down, and so may differ where the coarsest map was rounded up.
    """
    step = jnp.broadcast_to(jnp.asarray(stride, jnp.float32), (2,))
    y, x = (jnp.asarray(axis, jnp.float32) for axis in np.mgrid[: grid_shape[0], : grid_shape[1]])
    y, x = y * step[0], x * step[1]
    shifts = jnp.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (shifts + cell[None]).reshape(-1, 4)
