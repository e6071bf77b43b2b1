"""Assign objects to the cells of SOLO's grids (Wang et al. 2019, arXiv 1912.04488, section 3.3).

Terms:
    N       ground-truth objects of an image, padded
    L       levels: grids of S x S cells over the image, each for objects of a range of sizes
    K       cells of all levels together, in the order (level, y, x)
    window  the 3 x 3 cells around an object's centre, in the order (y, x)
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
    """The targets of all cells, and the pairs whose masks are learned."""

    positive: Bool[Array, " K"]
    label: Int[Array, " K"]
    """Class of a positive cell. Where two objects share one, the later object's."""
    cell: Int[Array, " P"]
    gt_index: Int[Array, " P"]
    valid: Bool[Array, " P"]
    dropped: Int[Array, ""]
    """Number of pairs beyond P."""


def grid_targets(
    boxes: Float[Array, "N 4"],
    labels: Int[Array, " N"],
    centers: Float[Array, "N 2"],
    valid: Bool[Array, " N"],
    padded_size: Num[Array, " 2"] | tuple[int, int],
    *,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    pos_scale: float,
    max_positives: int,
) -> GridTargets:
    """Return the cells around each object's centre, on all levels that its size belongs to.

    If there are more than P = `max_positives` pairs, those nearest to their objects' centres stay,
    larger objects first; `positive` and `label` hold for the dropped ones too.

    Args:
        boxes: `xyxy`, in pixels. An object's size is the square root of its box's area.
        labels: the objects' classes.
        centers: the masks' centres of mass, `(x, y)` in pixel indices.
        valid: False for padding.
        padded_size: `(height, width)` of the padded image, which the grids cover.
        num_grids: S of each level.
        scale_ranges: the least and the largest size of each level's objects, both included. Ranges
            may overlap.
        pos_scale: size of the centre region as a fraction of the box's. The region lies around the
            centre of mass, and is cut to the window.
        max_positives: P.

    >>> targets = grid_targets(
    ...     jnp.asarray([[0.0, 0.0, 16.0, 16.0]]), jnp.asarray([5]), jnp.asarray([[8.0, 8.0]]),
    ...     jnp.asarray([True]), (32, 32), num_grids=[4], scale_ranges=[(1.0, 64.0)],
    ...     pos_scale=0.2, max_positives=4,
    ... )
    >>> targets.cell[targets.valid].tolist()  # (y, x) = (1, 1), (0, 1), (1, 0) and (0, 0)
    [5, 1, 4, 0]
    >>> targets.label[5].item(), targets.dropped.item()
    (5, 0)
    """
    side = boxes[:, 2:] - boxes[:, :2]  # [N, 2]
    size = jnp.sqrt(jnp.maximum(side[:, 0] * side[:, 1], 0))
    extent = jnp.stack([jnp.asarray(padded_size[1]), jnp.asarray(padded_size[0])])  # (x, y)
    extent = extent.astype(boxes.dtype)
    cells, hits, first_cell = [], [], 0
    for grid, (low, high) in zip(num_grids, scale_ranges, strict=True):
        cell, hit = _center_cells(centers, 0.5 * side * pos_scale, extent, grid)  # [N, 9]
        in_range = valid & (size >= low) & (size <= high)
        cells.append(first_cell + cell)
        hits.append(hit & in_range[:, None])
        first_cell += grid * grid
    cell, hit = jnp.stack(cells), jnp.stack(hits)  # [L, N, 9]
    gt_index = jnp.broadcast_to(jnp.arange(boxes.shape[0])[None, :, None], hit.shape)
    # Cells outside the grid are no hits, and their indices may be outside [0, K) too.
    last_gt = jnp.full(first_cell, -1).at[cell].max(jnp.where(hit, gt_index, -1), mode="drop")
    positive = last_gt >= 0
    pair, kept = _nearest_pairs(hit, size, extent.max(), max_positives)
    return GridTargets(
        positive=positive,
        label=jnp.where(positive, labels[jnp.maximum(last_gt, 0)], 0),
        cell=jnp.where(kept, cell.reshape(-1)[pair], 0),
        gt_index=jnp.where(kept, gt_index.reshape(-1)[pair], 0),
        valid=kept,
        dropped=hit.sum() - kept.sum(),
    )


def _center_cells(
    centers: Float[Array, "N 2"],
    half_region: Float[Array, "N 2"],
    extent: Float[Array, " 2"],
    grid: int,
) -> tuple[Int[Array, "N 9"], Bool[Array, "N 9"]]:
    """Return the cells of each object's window on one grid, and if the centre region touches them.

    Cells outside the grid have meaningless indices and are not touched.
    """

    def to_cell(point: Float[Array, "N 2"]) -> Int[Array, "N 2"]:
        # In the references' order of operations: rounding decides on which side of a cell's border
        # a point is.
        return jnp.trunc(point / extent[None, :] / jnp.float32(1 / grid)).astype(jnp.int32)

    center = to_cell(centers)
    first = jnp.maximum(jnp.maximum(to_cell(centers - half_region), 0), center - 1)
    last = jnp.minimum(jnp.minimum(to_cell(centers + half_region), grid - 1), center + 1)
    window = center[:, None, :] + jnp.arange(-1, 2)[None, :, None]  # [N, 3, (x, y)]
    touched = (window >= first[:, None, :]) & (window <= last[:, None, :])
    cell = window[:, :, None, 1] * grid + window[:, None, :, 0]  # [N, y, x]
    hit = touched[:, :, None, 1] & touched[:, None, :, 0]
    return cell.reshape(-1, 9), hit.reshape(-1, 9)


def _nearest_pairs(
    hit: Bool[Array, "L N 9"],
    size: Float[Array, " N"],
    largest_size: Float[Array, ""],
    max_positives: int,
) -> tuple[Int[Array, " P"], Bool[Array, " P"]]:
    """Return the positions of the P best pairs in the flattened `hit`, and which P are pairs.

    Pairs are ordered by the distance of the cell from the centre's cell, then by the object's size,
    larger ones first, then by position.
    """
    distance = jnp.asarray(np.abs(np.mgrid[-1:2, -1:2]).sum(0).reshape(-1), size.dtype)  # [9]
    # A fraction below 1 of the size never outweighs a difference in distance, which is 1 or more.
    rank = (size / (largest_size + size))[None, :, None] - distance[None, None, :]
    rank = jnp.broadcast_to(rank, hit.shape)
    pair = jnp.argsort(jnp.where(hit, -rank, jnp.inf).reshape(-1), stable=True)[:max_positives]
    missing = max_positives - pair.shape[0]
    kept = jnp.pad(hit.reshape(-1)[pair], (0, missing))
    return jnp.pad(pair, (0, missing)), kept
