"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3): features of a box at a fixed size.

Terms:
    R        RoIs: boxes whose features are pooled, in pixels of the image
    bin      one of the `oh x ow` equal parts of a RoI
    sample   a point in a bin, `sampling_ratio` of them along each axis; a bin's value is
             the mean of its samples
    S        samples of a bin along one axis
    tap      one of the two cells, along one axis, that a sample is interpolated from
    extent   the `(h, w)` part of a feature map that is image; the rest is padding
    K        cells of all maps, in one list

Bilinear interpolation is separable, so each axis has its own taps: cells of the map and
their weights. A bin is the sum over the taps of its row and its column. Each pair of taps
is one gather of whole rows of C channels from the list of cells, and its gradient is one
scatter-add.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.ops.batching import Batching, for_images
from jaxseg.ops.boxes import box_area

MAX_ADAPTIVE_SAMPLES = 64
"""Largest number of samples of a bin along an axis with `sampling_ratio=0`; enough for bins of 64
cells. Only as many are computed as the largest bin needs."""

_MAX_UNROLLED_SAMPLES = 4
"""Up to this number of samples along an axis, XLA gets one sum over all taps, which it fuses."""

Extent = tuple[int, int] | Int[Array, " 2"]


class Taps(NamedTuple):
    """The cells that each bin of one axis reads, and their weights.

    S samples have two taps each. Only the first `used` samples have weight for any RoI.
    """

    cell: Int[Array, "R bins S 2"]
    weight: Float[Array, "R bins S 2"]
    used: Int[Array, ""]


def roi_align(
    features: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    *,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 2,
    aligned: bool = False,
    extent: Extent | None = None,
) -> Float[Array, "R oh ow C"]:
    """Pool each box (`xyxy`, in pixels) from one map; numerically torchvision's `roi_align`.

    Only `features` get a gradient, as in torchvision.

    Args:
        features: the map.
        boxes: the RoIs.
        output_size: number of bins `(oh, ow)`.
        spatial_scale: cells of the map per pixel, 1 / stride.
        sampling_ratio: S; 0 takes `ceil(bin size)` samples per bin and axis, at most
            `MAX_ADAPTIVE_SAMPLES`.
        aligned: shift boxes by half a cell, so that pixel centres and cell centres agree. Without
            it a RoI is at least one cell wide.
        extent: size of the map without padding, None for the whole map. Samples more than a cell
            outside count as 0, and others are clamped to it.

    >>> features = jnp.arange(16.0).reshape(4, 4, 1)
    >>> box = jnp.asarray([[0.0, 0.0, 8.0, 8.0]])
    >>> pooled = roi_align(features, box, output_size=(2, 2), spatial_scale=0.5, aligned=True)
    >>> pooled[0, ..., 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    height, width, channels = features.shape
    rows, columns = (height, width) if extent is None else (extent[0], extent[1])
    scaled = boxes * spatial_scale  # in cells
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)
    taps_y = taps_y._replace(cell=taps_y.cell * width)  # cell (y, x) is y * width + x in the list
    return _pool(features.reshape(-1, channels), taps_y, taps_x)


def multilevel_roi_align(
    pyramid: Mapping[int, Float[Array, "_ _ C"]],
    boxes: Float[Array, "R 4"],
    *,
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_box_size: float = 224.0,
    canonical_level: int = 4,
    extent: Mapping[int, Extent] | None = None,
    batching: Batching = "auto",
) -> Float[Array, "R oh ow C"]:
    """Pool each box (`xyxy`, in pixels) from the level of a pyramid that fits its size.

    `pyramid` maps strides to feature maps, `extent` strides to their sizes without padding. The
    level is that of Lin et al. 2017 (arXiv 1612.03144, equation 1), clipped to the pyramid's
    levels; see `assign_levels`. `batching` is how `jax.vmap` pools from several images
    (`jaxseg.ops.batching`). The rest is as for `roi_align`. Raises `ValueError` unless the strides
    are powers of two, each twice the one before.

    >>> pyramid = {4: jnp.full((16, 16, 1), 4.0), 8: jnp.full((8, 8, 1), 8.0)}
    >>> boxes = jnp.asarray([[0.0, 0.0, 20.0, 20.0], [8.0, 8.0, 60.0, 60.0]])
    >>> pooled = multilevel_roi_align(
    ...     pyramid, boxes, output_size=(1, 1), canonical_box_size=32.0, canonical_level=3
    ... )
    >>> pooled.reshape(-1).tolist()
    [4.0, 8.0]
    """
    strides = _checked_strides(pyramid)
    level = assign_levels(boxes, strides, canonical_box_size, canonical_level)
    maps = [pyramid[stride] for stride in strides]
    shapes = [features.shape[:2] for features in maps]
    sizes = shapes if extent is None else [extent[stride] for stride in strides]
    level_sizes = jnp.stack([jnp.asarray(size) for size in sizes])  # [levels, 2]
    rows, columns = level_sizes[level, 0], level_sizes[level, 1]  # of each RoI's map, [R]
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None]  # in cells
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)

    # Cell (y, x) of a RoI's map is first + y * width + x in the list of all maps' cells.
    first = jnp.asarray(np.cumsum([0, *(h * w for h, w in shapes[:-1])]))[level]  # [R]
    width = jnp.asarray([w for _, w in shapes])[level]  # [R]
    row_start = taps_y.cell * width[:, None, None, None] + first[:, None, None, None]
    cells = jnp.concatenate([features.reshape(-1, features.shape[2]) for features in maps])
    return _pool(cells, taps_y._replace(cell=row_start), taps_x, batching)


def indexed_roi_align(
    maps: Float[Array, "N H W C"],
    map_index: Int[Array, " R"],
    boxes: Float[Array, "R 4"],
    *,
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = False,
    extent: Extent | None = None,
) -> Float[Array, "R oh ow C"]:
    """Pool each box from its own map, `maps[map_index]`, whose cells are the image's pixels.

    The rest is as for `roi_align`.

    >>> maps = jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1) * jnp.ones((2, 4, 4, 1))
    >>> box = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])
    >>> indexed_roi_align(maps, jnp.asarray([1]), box, output_size=(1, 1)).tolist()
    [[[[2.0]]]]
    """
    _, height, width, channels = maps.shape
    rows, columns = (height, width) if extent is None else (extent[0], extent[1])
    taps_y = _taps(boxes[:, 1], boxes[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(boxes[:, 0], boxes[:, 2], output_size[1], sampling_ratio, aligned, columns)
    row = taps_y.cell + (map_index * height)[:, None, None, None]  # among the rows of all maps
    return _pool(maps.reshape(-1, channels), taps_y._replace(cell=row * width), taps_x)


def assign_levels(
    boxes: Float[Array, "R 4"], strides: list[int], canonical_box_size: float, canonical_level: int
) -> Int[Array, " R"]:
    """Return the position in `strides` of the level that each box is pooled from.

    A box of `canonical_box_size` squared goes to the level of stride `2 ** canonical_level`, one of
    twice that side to the next coarser level (Lin et al. 2017, equation 1).

    >>> boxes = jnp.asarray([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 448.0, 448.0]])
    >>> assign_levels(boxes, [4, 8, 16, 32], 224.0, 4).tolist()
    [2, 3]
    """
    lowest = int(math.log2(strides[0]))
    side = jnp.sqrt(box_area(boxes))
    # Rounding must not send a box of exactly a level's size to the level below it.
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_box_size) + 1e-6)
    return jnp.clip(level - lowest, 0, len(strides) - 1).astype(jnp.int32)


def _checked_strides(pyramid: Mapping[int, Array]) -> list[int]:
    """Return the strides in ascending order; ValueError unless each doubles the one before."""
    strides = sorted(pyramid)
    doubling = all(2 * a == b for a, b in itertools.pairwise(strides))
    if not strides or strides[0].bit_count() != 1 or not doubling:
        raise ValueError(
            f"pyramid has the strides {strides}: give one map for each of consecutive powers of "
            "two, such as 4, 8, 16, 32"
        )
    return strides


def _taps(
    start: Float[Array, " R"],
    end: Float[Array, " R"],
    bins: int,
    sampling_ratio: int,
    aligned: bool,
    size: int | Int[Array, "*R"],
) -> Taps:
    """Return the taps of one axis, for RoIs from `start` to `end` on a map of `size` cells.

    `start` and `end` are in cells, `bins` is the number of bins.
    """
    size = jnp.broadcast_to(jnp.asarray(size, start.dtype), start.shape)
    last = (size - 1)[:, None, None]  # index of the last cell
    if aligned:
        start, length = start - 0.5, end - start
    else:
        length = jnp.maximum(end - start, 1.0)
    max_samples = sampling_ratio or MAX_ADAPTIVE_SAMPLES  # S
    if sampling_ratio:
        count = jnp.full_like(start, sampling_ratio)  # samples of a bin, [R]
    else:
        count = _adaptive_samples(length, bins, max_samples)
    position = _sample_positions(start, length / bins, bins, count, max_samples)  # [R, bins, S]
    position = _snap(position)
    counted = (jnp.arange(max_samples, dtype=start.dtype)[None, :] < count[:, None])[:, None, :]
    counted &= (position >= -1) & (position <= last + 1) & (last >= 0)
    last = jnp.maximum(last, 0)
    position = jnp.clip(position, 0, last)
    low = jnp.floor(position)
    fraction = position - low
    share = (
        counted.astype(start.dtype) / jnp.maximum(count, 1)[:, None, None]
    )  # of the bin's mean, [R, bins, S]
    return Taps(
        jnp.stack([low, jnp.minimum(low + 1, last)], axis=-1).astype(jnp.int32),  # [R, bins, S, 2]
        jnp.stack([(1 - fraction) * share, fraction * share], axis=-1),
        count.max(initial=0).astype(jnp.int32),
    )


def _adaptive_samples(
    length: Float[Array, " R"], bins: int, max_samples: int
) -> Float[Array, " R"]:
    """Return `ceil(length / bins)`, the number of samples of a bin of each RoI."""
    count = jnp.ceil(length / bins)
    # A compiled quotient can be slightly above its true value, so that the count for 21 / 7 is 4.
    is_above = ((count - 1) * bins >= length).astype(count.dtype)
    return jnp.clip(count - is_above, 0, max_samples)


def _sample_positions(
    start: Float[Array, " R"],
    bin_size: Float[Array, " R"],
    bins: int,
    count: Float[Array, " R"],
    max_samples: int,
) -> Float[Array, "R bins S"]:
    """Return each sample's position in cells; those from `count` on are without meaning."""
    sample = jnp.arange(max_samples, dtype=start.dtype)
    step = bin_size / jnp.maximum(count, 1)
    offset = (sample + 0.5)[None, :] * step[:, None]  # from the bin's start, [R, S]
    bin_start = start[:, None] + jnp.arange(bins, dtype=start.dtype)[None, :] * bin_size[:, None]
    return bin_start[:, :, None] + offset[:, None, :]


def _snap(position: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Move positions on the centre of a cell, but for rounding, to it.

    XLA may compute a position twice, with another rounding: once for the cells, once for the
    weights. A position of 11 would then read the cell 11 with the weights of the position 10.99999.
    """
    center = jnp.round(position)
    return jnp.where(jnp.abs(position - center) <= 2.0**-22 * center, center, position)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _pool(
    cells: Float[Array, "K C"], taps_y: Taps, taps_x: Taps, batching: Batching = "auto"
) -> Float[Array, "R oh ow C"]:
    """Return the sum over pairs of taps; each pair reads `cells[taps_y.cell + taps_x.cell]`.

    The cells are read in their own dtype, and summed in that of the weights, float32.
    """

    def of_image(cells: Array, taps_y: Taps, taps_x: Taps) -> Array:
        def add(total: Array, index: Array, weight: Array) -> Array:
            # Taps are clamped to the maps, so indices are in bounds without checks.
            rows = cells.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
            return total + rows.astype(weight.dtype) * weight[..., None]

        shape = (*taps_y.cell.shape[:2], taps_x.cell.shape[1], cells.shape[1])
        return _over_taps(add, jnp.zeros(shape, taps_y.weight.dtype), taps_y, taps_x)

    return for_images(of_image, batching)(cells, taps_y, taps_x)


def _pool_forward(
    cells: Float[Array, "K C"], taps_y: Taps, taps_x: Taps, batching: Batching
) -> tuple[Array, tuple[Array, Taps, Taps]]:
    return _pool(cells, taps_y, taps_x, batching), (cells, taps_y, taps_x)


def _pool_backward(
    batching: Batching, saved: tuple[Array, Taps, Taps], gradient: Float[Array, "R oh ow C"]
) -> tuple[Array, None, None]:
    """Add the gradients of all taps into one array.

    JAX's own gradient makes an array as large as all maps for every pair of taps and adds them up:
    up to twice the time on large maps. On a CPU the taps are in a loop, whose body XLA computes in
    place: twice as fast as a scatter-add for each, in a fifteenth of the memory.
    """
    cells, taps_y, taps_x = saved
    shape, dtype = cells.shape, cells.dtype

    def add_to_cells(over_taps: Callable) -> Callable[[Array, Taps, Taps], Array]:
        def add(total: Array, index: Array, weight: Array, gradient: Array) -> Array:
            update = gradient * weight[..., None]
            return total.at[index].add(
                update, mode="promise_in_bounds", wrap_negative_indices=False
            )

        def sum_all(gradient: Array, taps_y: Taps, taps_x: Taps) -> Array:
            start = jnp.zeros(shape, gradient.dtype)
            total = over_taps(functools.partial(add, gradient=gradient), start, taps_y, taps_x)
            return total.astype(dtype)

        return sum_all

    def of_image(gradient: Array, taps_y: Taps, taps_x: Taps) -> Array:
        return jax.lax.platform_dependent(
            gradient,
            taps_y,
            taps_x,
            cpu=add_to_cells(_loop_over_taps),
            default=add_to_cells(_over_taps),
        )

    return for_images(of_image, batching)(gradient, taps_y, taps_x), None, None


_pool.defvjp(_pool_forward, _pool_backward)


def _over_taps(
    add: Callable[[Array, Array, Array], Array], total: Array, taps_y: Taps, taps_x: Taps
) -> Array:
    """Return `total` after `total = add(total, index, weight)` for each pair of taps.

    `index` and `weight` are `[R, oh, ow]`.
    """

    def add_sample(total: Array, y: int | Array, x: int | Array) -> Array:
        for a, b in itertools.product(range(2), range(2)):
            # [R, oh, 1] and [R, 1, ow]
            index = taps_y.cell[:, :, None, y, a] + taps_x.cell[:, None, :, x, b]
            weight = taps_y.weight[:, :, None, y, a] * taps_x.weight[:, None, :, x, b]
            total = add(total, index, weight)
        return total

    max_samples = taps_y.cell.shape[2]
    if max_samples <= _MAX_UNROLLED_SAMPLES:
        for y, x in itertools.product(range(max_samples), range(max_samples)):
            total = add_sample(total, y, x)
        return total

    def add_row(y: Array, total: Array) -> Array:
        return jax.lax.fori_loop(0, taps_x.used, lambda x, t: add_sample(t, y, x), total)

    return jax.lax.fori_loop(0, taps_y.used, add_row, total)


def _loop_over_taps(
    add: Callable[[Array, Array, Array], Array], total: Array, taps_y: Taps, taps_x: Taps
) -> Array:
    """Do the same as `_over_taps`, one pair of taps after the other."""
    (cell_y, weight_y), (cell_x, weight_x) = (
        (taps.cell.reshape(*taps.cell.shape[:2], -1), taps.weight.reshape(*taps.cell.shape[:2], -1))
        for taps in (taps_y, taps_x)
    )  # [R, bins, S 2]
    columns = 2 * taps_x.used

    def add_pair(number: Array, total: Array) -> Array:
        y, x = number // columns, number % columns
        index = cell_y[:, :, None, y] + cell_x[:, None, :, x]  # [R, oh, ow]
        weight = weight_y[:, :, None, y] * weight_x[:, None, :, x]
        return add(total, index, weight)

    return jax.lax.fori_loop(0, 2 * taps_y.used * columns, add_pair, total)
