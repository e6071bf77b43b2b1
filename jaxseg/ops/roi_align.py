"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3): features of a box at a fixed size.

Terms:
    RoI      a box whose features are pooled, in pixels of the image
    bin      one of the `oh x ow` equal parts of a RoI
    sample   a point in a bin, `sampling_ratio` of them along each axis; a bin's value is
             the mean of its samples
    tap      one of the two cells, along one axis, that a sample is interpolated from
    extent   the `(h, w)` part of a feature map that is image; beyond it lies padding

Bilinear interpolation is separable, so each axis has its own taps: cells of the map and
their weights. A bin is the sum over the taps of its row and its column. Each pair of taps
is one gather of whole rows of C channels from the cells of all maps in one list, and its
gradient is one scatter-add.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxseg.ops.boxes import box_area

MAX_ADAPTIVE_SAMPLES = 64
"""Most samples of a bin along an axis with `sampling_ratio=0`; enough for bins of 64 cells.

Only as many are computed as the largest bin needs.
"""

_MAX_UNROLLED_SAMPLES = 4
"""Up to so many samples along an axis, XLA sees one sum over all taps, which it fuses."""

Extent = tuple[int, int] | Int[Array, " 2"]


class Taps(NamedTuple):
    """Where each bin of an axis reads a map, and how much each reading counts.

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
    """Pools each box from one map; numerically torchvision's `roi_align`.

    `spatial_scale` takes pixels to cells of the map (1/stride). `sampling_ratio=0` takes
    `ceil(bin size)` samples per bin and axis, at most `MAX_ADAPTIVE_SAMPLES`. `aligned`
    shifts boxes by half a cell, so that pixel centres and cell centres agree; without it a
    RoI is at least one cell wide. Samples more than a cell outside the map count as 0, and
    others are clamped to it; `extent` makes the map end earlier for both. Only `features`
    get a gradient, as in torchvision.
    """
    height, width, channels = features.shape
    rows, columns = (height, width) if extent is None else (extent[0], extent[1])
    scaled = boxes * spatial_scale
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)
    taps_y = taps_y._replace(cell=taps_y.cell * width)
    return _pool(features.reshape(-1, channels).astype(boxes.dtype), taps_y, taps_x)


def multilevel_roi_align(
    pyramid: Mapping[int, Float[Array, "_ _ C"]],
    boxes: Float[Array, "R 4"],
    *,
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    extent: Mapping[int, Extent] | None = None,
) -> Float[Array, "R oh ow C"]:
    """Pools each box from the level of a pyramid that fits its size.

    `pyramid` maps strides to feature maps. The level is that of Lin et al. 2017 (arXiv
    1612.03144, equation 1), cut to the levels there are. `extent` gives each map's, by
    stride. The rest is as for `roi_align`. Raises `ValueError` unless the strides are
    powers of two, each twice the one before.
    """
    strides = _checked_strides(pyramid)
    level = assign_levels(boxes, strides, canonical_size, canonical_level)
    maps = [pyramid[stride] for stride in strides]
    shapes = [features.shape[:2] for features in maps]
    sizes = shapes if extent is None else [extent[stride] for stride in strides]
    ends = jnp.stack([jnp.asarray(size) for size in sizes])
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None]
    rows, columns = ends[level, 0], ends[level, 1]
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)

    first = jnp.asarray(np.cumsum([0, *(h * w for h, w in shapes[:-1])]))[level]
    width = jnp.asarray([w for _, w in shapes])[level]
    in_list = taps_y.cell * width[:, None, None, None] + first[:, None, None, None]
    cells = jnp.concatenate([features.reshape(-1, features.shape[2]) for features in maps])
    return _pool(cells.astype(boxes.dtype), taps_y._replace(cell=in_list), taps_x)


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
    """Pools each box from the map of its own, `maps[map_index]`, at the image's own scale."""
    _, height, width, channels = maps.shape
    rows, columns = (height, width) if extent is None else (extent[0], extent[1])
    taps_y = _taps(boxes[:, 1], boxes[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(boxes[:, 0], boxes[:, 2], output_size[1], sampling_ratio, aligned, columns)
    row = taps_y.cell + (map_index * height)[:, None, None, None]
    return _pool(maps.reshape(-1, channels), taps_y._replace(cell=row * width), taps_x)


def assign_levels(
    boxes: Float[Array, "R 4"], strides: list[int], canonical_size: float, canonical_level: int
) -> Int[Array, " R"]:
    """The place in `strides` of the level each box is pooled from.

    A box of `canonical_size` squared goes to the level of stride `2 ** canonical_level`.
    """
    lowest = int(math.log2(strides[0]))
    side = jnp.sqrt(box_area(boxes))
    # Rounding must not send a box of exactly a level's size to the level below.
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)
    return jnp.clip(level - lowest, 0, len(strides) - 1).astype(jnp.int32)


def _checked_strides(pyramid: Mapping[int, Array]) -> list[int]:
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
    """Taps of one axis, for RoIs from `start` to `end` in cells on a map of `size` cells."""
    last = (jnp.broadcast_to(jnp.asarray(size), start.shape) - 1)[:, None, None]
    if aligned:
        start, length = start - 0.5, end - start
    else:
        length = jnp.maximum(end - start, 1.0)
    bin_size = length / bins
    most = sampling_ratio or MAX_ADAPTIVE_SAMPLES
    # Compiled, the quotient may be a little more than it is, so that of 21 / 7 is 4.
    adaptive = jnp.ceil(bin_size)
    adaptive = jnp.clip(adaptive - ((adaptive - 1) * bins >= length), 0, most)
    count = jnp.full_like(start, sampling_ratio) if sampling_ratio else adaptive
    sample = jnp.arange(most, dtype=start.dtype)
    step = bin_size / jnp.maximum(count, 1)
    offset = (sample + 0.5)[None, :] * step[:, None]
    bin_start = start[:, None] + jnp.arange(bins, dtype=start.dtype)[None, :] * bin_size[:, None]
    position = bin_start[:, :, None] + offset[:, None, :]
    counts = (sample[None, :] < count[:, None])[:, None, :]
    counts &= (position >= -1) & (position <= last + 1) & (last >= 0)
    last = jnp.maximum(last, 0)
    position = jnp.clip(position, 0, last.astype(start.dtype))
    low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low
    share = counts / jnp.maximum(count, 1)[:, None, None]
    return Taps(
        jnp.stack([low, jnp.minimum(low + 1, last)], axis=-1),
        jnp.stack([(1 - fraction) * share, fraction * share], axis=-1),
        count.max(initial=0).astype(jnp.int32),
    )


@jax.custom_vjp
def _pool(cells: Float[Array, "K C"], taps_y: Taps, taps_x: Taps) -> Float[Array, "R oh ow C"]:
    """The weighted sum over taps. A pair of taps reads the cell `taps_y.cell + taps_x.cell`."""

    def add(total: Array, index: Array, weight: Array) -> Array:
        rows = cells.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return total + rows * weight[..., None]

    shape = (*taps_y.cell.shape[:2], taps_x.cell.shape[1], cells.shape[1])
    return _over_taps(add, jnp.zeros(shape, cells.dtype), taps_y, taps_x)


def _pool_forward(
    cells: Float[Array, "K C"], taps_y: Taps, taps_x: Taps
) -> tuple[Array, tuple[Array, Taps, Taps]]:
    return _pool(cells, taps_y, taps_x), (cells, taps_y, taps_x)


def _pool_backward(
    saved: tuple[Array, Taps, Taps], gradient: Float[Array, "R oh ow C"]
) -> tuple[Array, None, None]:
    """Adds all taps into one array. JAX's own gradient makes an array as large as all maps for
    every pair of taps and adds them up: up to twice the time on large maps."""
    cells, taps_y, taps_x = saved

    def add(total: Array, index: Array, weight: Array) -> Array:
        update = gradient * weight[..., None]
        return total.at[index].add(update, mode="promise_in_bounds", wrap_negative_indices=False)

    return _over_taps(add, jnp.zeros_like(cells), taps_y, taps_x), None, None


_pool.defvjp(_pool_forward, _pool_backward)


def _over_taps(
    add: Callable[[Array, Array, Array], Array], total: Array, taps_y: Taps, taps_x: Taps
) -> Array:
    """`total = add(total, index, weight)` for each pair of taps, both `[R, oh, ow]`."""

    def add_sample(total: Array, y: int | Array, x: int | Array) -> Array:
        for a, b in itertools.product(range(2), range(2)):
            index = taps_y.cell[:, :, None, y, a] + taps_x.cell[:, None, :, x, b]
            weight = taps_y.weight[:, :, None, y, a] * taps_x.weight[:, None, :, x, b]
            total = add(total, index, weight)
        return total

    most = taps_y.cell.shape[2]
    if most <= _MAX_UNROLLED_SAMPLES:
        for y, x in itertools.product(range(most), range(most)):
            total = add_sample(total, y, x)
        return total

    def add_row(y: Array, total: Array) -> Array:
        return jax.lax.fori_loop(0, taps_x.used, lambda x, t: add_sample(t, y, x), total)

    return jax.lax.fori_loop(0, taps_y.used, add_row, total)
