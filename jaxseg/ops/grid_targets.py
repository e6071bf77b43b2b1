"""Which cells of SOLO's grids learn which object (Wang et al. 2019, arXiv 1912.04488, section 3.3).

Terms:
    level   a grid of S x S cells laid over the image; each is for objects of a range of sizes
    K       cells of all levels together, in the order (level, y, x)
    pair    a cell and an object that it learns the mask of; an object has up to 3 x 3 cells of
            a level, those that its centre region touches
    P       pairs that are kept, padded
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num


class GridTargets(NamedTuple):
    positive: Bool[Array, " K"]
    label: Int[Array, " K"]
    """Class of a positive cell. Where two objects share one, the later object's."""
    cell: Int[Array, " P"]
    gt_index: Int[Array, " P"]
    valid: Bool[Array, " P"]
    dropped: Int[Array, ""]
    """Pairs that there was no room for."""


def grid_targets(
    boxes: Float[Array, "N 4"],
    labels: Int[Array, " N"],
    centers: Float[Array, "N 2"],
    valid: Bool[Array, " N"],
    padded_size: Num[Array, " 2"] | tuple[int, int],
    *,
    grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    sigma: float,
    pairs: int,
) -> GridTargets:
    """The cells around the centre of each object, on all levels that its size belongs to.

    `centers` are the masks' centres of mass, `(x, y)` in pixel indices; the centre region is
    `sigma` times the box around it, cut to the neighbours of the centre's own cell. An object's
    size is the root of its box's area; `scale_ranges`, both ends included, may overlap. The
    grids cover a canvas of `(height, width)`.

    Of more than `pairs` pairs those nearest to their objects' centres stay, larger objects
    first; `positive` and `label` hold for the dropped ones too.
    """
    side = boxes[:, 2:] - boxes[:, :2]
    size = jnp.sqrt(jnp.maximum(side[:, 0] * side[:, 1], 0))
    extent = jnp.stack([jnp.asarray(padded_size[1]), jnp.asarray(padded_size[0])]).astype(
        boxes.dtype
    )
    reach = 0.5 * side * sigma
    step = jnp.arange(-1, 2)
    cells, hits, first_cell = [], [], 0
    for grid, (low, high) in zip(grids, scale_ranges, strict=True):

        def place(point: Array, grid: int = grid) -> Array:
            share = jnp.float32(1 / grid)
            return jnp.trunc(point / extent[None, :] / share).astype(jnp.int32)

        own = place(centers)
        first = jnp.maximum(jnp.maximum(place(centers - reach), 0), own - 1)
        last = jnp.minimum(jnp.minimum(place(centers + reach), grid - 1), own + 1)
        at = own[:, None, :] + step[None, :, None]
        inside = (at >= first[:, None, :]) & (at <= last[:, None, :])
        hit = inside[:, :, None, 1] & inside[:, None, :, 0]
        sized = valid & (size >= low) & (size <= high)
        hits.append(hit & sized[:, None, None])
        cells.append(first_cell + at[:, :, None, 1] * grid + at[:, None, :, 0])
        first_cell += grid * grid

    count = boxes.shape[0]
    cell = jnp.stack(cells).reshape(-1)  # in the order (level, object, y, x)
    hit = jnp.stack(hits).reshape(-1)
    gt = jnp.broadcast_to(jnp.arange(count)[None, :, None], (len(grids), count, 9)).reshape(-1)
    last_gt = jnp.full(first_cell, -1).at[cell].max(jnp.where(hit, gt, -1), mode="drop")
    positive = last_gt >= 0

    distance = jnp.asarray(np.abs(np.mgrid[-1:2, -1:2]).sum(0).reshape(-1), boxes.dtype)
    largest = extent.max()
    rank = (size / (largest + size))[None, :, None] - distance[None, None, :]
    rank = jnp.broadcast_to(rank, (len(grids), count, 9)).reshape(-1)
    order = jnp.argsort(jnp.where(hit, -rank, jnp.inf), stable=True)[:pairs]
    missing = pairs - order.shape[0]
    kept = jnp.pad(hit[order], (0, missing))
    order = jnp.pad(order, (0, missing))
    return GridTargets(
        positive=positive,
        label=jnp.where(positive, labels[jnp.maximum(last_gt, 0)], 0),
        cell=jnp.where(kept, cell[order], 0),
        gt_index=jnp.where(kept, gt[order], 0),
        valid=kept,
        dropped=hit.sum() - kept.sum(),
    )
