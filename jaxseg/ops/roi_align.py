"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3): features of a box at a fixed size.

Terms:
    R        RoIs: boxes whose features are pooled, in pixels of the image
    bin      one of the `oh x ow` equal parts of a RoI
    extent   the `(h, w)` part of a feature map that is image; the rest is padding
    K        cells of all maps, in one list

A bin is the sum over the taps of its row and its column (`jaxseg.ops.roi_taps`), computed by one
of two methods:

    taps     each pair of taps is one gather of whole rows of C channels from the list of cells,
             and its gradient is one scatter-add
    tiles    products of matrices, for one image after the other (`jaxseg.ops.roi_tiles`)

`auto` is `tiles` on a TPU for maps of `TPU_LANES` channels or a multiple of it, `taps` elsewhere.
The results differ by rounding.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.ops import roi_tiles
from jaxseg.ops.batching import one_by_one
from jaxseg.ops.boxes import box_area
from jaxseg.ops.roi_taps import Extent, Taps, make_taps

Method = Literal["auto", "taps", "tiles"]

TPU_LANES = 128
"""Channels that a TPU computes at once."""

_MAX_UNROLLED_SAMPLES = 4
"""Up to this number of samples along an axis, XLA gets one sum over all taps, which it fuses."""


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
            `roi_taps.MAX_ADAPTIVE_SAMPLES`.
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
    rows, columns = features.shape[:2] if extent is None else (extent[0], extent[1])
    scaled = boxes * spatial_scale  # in cells
    taps_y = make_taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = make_taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)
    level = jnp.zeros(len(boxes), jnp.int32)
    return _pool((features,), level, taps_y, taps_x, "auto")


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
    method: Method = "auto",
) -> Float[Array, "R oh ow C"]:
    """Pool each box (`xyxy`, in pixels) from the level of a pyramid that fits its size.

    `pyramid` maps strides to feature maps, `extent` strides to their sizes without padding. The
    level is that of Lin et al. 2017 (arXiv 1612.03144, equation 1), clipped to the pyramid's
    levels; see `assign_levels`. `method` is one of this module's; the rest is as for `roi_align`.
    Raises `ValueError` unless the strides are powers of two, each twice the one before.

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
    sizes = [pyramid[s].shape[:2] if extent is None else extent[s] for s in strides]
    level_sizes = jnp.stack([jnp.asarray(size) for size in sizes])  # [levels, 2]
    rows, columns = level_sizes[level, 0], level_sizes[level, 1]  # of each RoI's map, [R]
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None]  # in cells
    taps_y = make_taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = make_taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)
    return _pool(tuple(pyramid[stride] for stride in strides), level, taps_y, taps_x, method)


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
    taps_y = make_taps(boxes[:, 1], boxes[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = make_taps(boxes[:, 0], boxes[:, 2], output_size[1], sampling_ratio, aligned, columns)
    # All maps are one, below each other.
    taps_y = taps_y._replace(cell=taps_y.cell + (map_index * height)[:, None, None, None])
    stacked = maps.reshape(-1, width, channels)
    return _pool((stacked,), jnp.zeros_like(map_index), taps_y, taps_x, "auto")


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


Maps = tuple[Float[Array, "_ _ C"], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _pool(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps, method: Method
) -> Float[Array, "R oh ow C"]:
    """Return the sum over pairs of taps; each pair reads a cell of the RoI's map `maps[level]`.

    The cells are read in their own dtype, and summed in that of the weights, float32.
    """
    pool = _by_method(method, maps, taps=_pool_taps, tiles=roi_tiles.pool_tiles)
    return pool(maps, level, taps_y, taps_x)


def _pool_forward(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps, method: Method
) -> tuple[Array, tuple[Any, ...]]:
    return _pool(maps, level, taps_y, taps_x, method), (maps, level, taps_y, taps_x)


def _pool_backward(
    method: Method, saved: tuple[Any, ...], gradient: Float[Array, "R oh ow C"]
) -> tuple[Maps, None, None, None]:
    pull = _by_method(
        method, saved[0], taps=_pool_taps_gradient, tiles=roi_tiles.pool_tiles_gradient
    )
    return tuple(pull(*saved, gradient)), None, None, None


_pool.defvjp(_pool_forward, _pool_backward)


def _by_method(
    method: Method, maps: Maps, *, taps: Callable[..., Any], tiles: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the function of the method; of `auto`, one that chooses by the platform."""
    if method != "auto":
        return {"taps": taps, "tiles": tiles}[method]
    on_tpu = tiles if maps[0].shape[2] % TPU_LANES == 0 else one_by_one(taps)
    return functools.partial(jax.lax.platform_dependent, tpu=on_tpu, default=taps)


def _pool_taps(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    cells = jnp.concatenate([features.reshape(-1, features.shape[2]) for features in maps])

    def add(total: Array, index: Array, weight: Array) -> Array:
        # Taps are clamped to the maps, so indices are in bounds without checks.
        rows = cells.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return total + rows.astype(weight.dtype) * weight[..., None]

    shape = (*taps_y.cell.shape[:2], taps_x.cell.shape[1], cells.shape[1])
    start = jnp.zeros(shape, taps_y.weight.dtype)
    return _over_taps(add, start, _in_list(taps_y, maps, level), taps_x)


def _pool_taps_gradient(
    maps: Maps,
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
    gradient: Float[Array, "R oh ow C"],
) -> list[Float[Array, "_ _ C"]]:
    """Add the gradients of all taps into one array.

    JAX's own gradient makes an array as large as all maps for every pair of taps and adds them up:
    up to twice the time on large maps. On a CPU the taps are in a loop, whose body XLA computes in
    place: twice as fast as a scatter-add for each, in a fifteenth of the memory.
    """
    ends = np.cumsum([x.shape[0] * x.shape[1] for x in maps])

    def add_to_cells(over_taps: Callable[..., Array]) -> Callable[[Array, Taps, Taps], Array]:
        def add(total: Array, index: Array, weight: Array, gradient: Array) -> Array:
            update = gradient * weight[..., None]
            return total.at[index].add(
                update, mode="promise_in_bounds", wrap_negative_indices=False
            )

        def sum_all(gradient: Array, taps_y: Taps, taps_x: Taps) -> Array:
            start = jnp.zeros((ends[-1], gradient.shape[3]), gradient.dtype)
            total = over_taps(functools.partial(add, gradient=gradient), start, taps_y, taps_x)
            return total.astype(maps[0].dtype)

        return sum_all

    total = jax.lax.platform_dependent(
        gradient,
        _in_list(taps_y, maps, level),
        taps_x,
        cpu=add_to_cells(_loop_over_taps),
        default=add_to_cells(_over_taps),
    )
    parts = jnp.split(total, ends[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, maps, strict=True)]


def _in_list(taps_y: Taps, maps: Maps, level: Int[Array, " R"]) -> Taps:
    """Return taps whose cell is the first of its row in the list of all maps' cells.

    Cell (y, x) of a map is first + y * width + x in the list.
    """
    sizes = [x.shape[0] * x.shape[1] for x in maps]
    first = jnp.asarray(np.cumsum([0, *sizes[:-1]]))[level]  # [R]
    width = jnp.asarray([x.shape[1] for x in maps])[level]  # [R]
    cell = taps_y.cell * width[:, None, None, None] + first[:, None, None, None]
    return taps_y._replace(cell=cell)


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
