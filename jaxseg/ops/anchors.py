"""Generate anchors: boxes of fixed sizes and shapes around every cell of a feature map.

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
    """Return the A = sizes x ratios boxes (`xyxy`) of a cell, in torchvision's order (ratio, size).

    An anchor of size s and aspect ratio r (height over width) has the area s * s. Torchvision
    rounds the coordinates to integers, halves to the even one (`rounded=True`); Detectron2 and
    MMDetection do not.

    >>> cell_anchors([32], [1, 4], rounded=True).tolist()
    [[-16.0, -16.0, 16.0, 16.0], [-8.0, -32.0, 8.0, 32.0]]
    """
    size = np.asarray(sizes, np.float32)[None, :]
    root = np.sqrt(np.asarray(aspect_ratios, np.float32))[:, None]
    # Multiplied by the inverse, as torchvision and MMDetection do: which anchors are equally good
    # for an object depends on the last bit.
    width, height = (size * (1 / root)).reshape(-1), (size * root).reshape(-1)
    boxes = np.stack([-width, -height, width, height], axis=1) / 2
    return np.round(boxes) if rounded else boxes


def grid_anchors(
    cell: Float[np.ndarray, "A 4"],
    grid_shape: tuple[int, int],
    stride: int | tuple[int, int] | Int[Array, " 2"],
) -> Float[Array, "K 4"]:
    """Return the cell's anchors at all K / A cells of a map, in the order (y, x, anchor).

    `grid_shape` is the map's `(height, width)`. `stride` is one number or `(vertical, horizontal)`
    in pixels: torchvision's is the image's size over the map's, rounded down, and so may differ
    where the coarsest map was rounded up.

    >>> cell = np.asarray([[-4.0, -4.0, 4.0, 4.0]], np.float32)
    >>> grid_anchors(cell, (1, 2), 8).tolist()
    [[-4.0, -4.0, 4.0, 4.0], [4.0, -4.0, 12.0, 4.0]]
    """
    step = jnp.broadcast_to(jnp.asarray(stride, jnp.float32), (2,))
    y, x, number = anchor_cells(grid_shape, len(cell))  # [K]
    y, x = y.astype(jnp.float32) * step[0], x.astype(jnp.float32) * step[1]
    is_anchor = [number == a for a in range(len(cell))]
    corners = [jnp.select(is_anchor, corner.tolist()) for corner in cell.T]  # four of [K]
    return jnp.stack([s + c for s, c in zip([x, y, x, y], corners, strict=True)], axis=-1)


def anchor_cells(
    grid_shape: tuple[int, int], num_anchors: int
) -> tuple[Int[Array, " K"], Int[Array, " K"], Int[Array, " K"]]:
    """Return the row and the column of each anchor's cell, and the anchor's number in the cell.

    The K anchors are in the order of `grid_anchors`, `num_anchors` in each cell. All are computed
    along one axis: a last axis of 3 anchors or 4 corners would fill few lanes of a TPU.

    >>> [axis.tolist() for axis in anchor_cells((1, 2), 2)]
    [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]
    """
    height, width = grid_shape
    index = jnp.arange(height * width * num_anchors)
    return index // (width * num_anchors), index // num_anchors % width, index % num_anchors
