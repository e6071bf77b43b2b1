"""RoIAlign by gathering the cells that the bins of RoIs are interpolated from.

Terms, beside those of `jaxseg.ops.roi_align`:
    sample   a point in a bin, `sampling_ratio` of them along each axis; a bin's value is
             the mean of its samples
    S        samples of a bin along one axis
    tap      one of the two cells, along one axis, that a sample is interpolated from
    K        cells of all maps, in one list

Bilinear interpolation is separable, so each axis has its own taps: cells of the map and their
weights. Each pair of taps is one gather of whole rows of C channels from the list of cells, and
its gradient is one scatter-add.

Two things are done for CPUs alone. The gradient is computed for chunks of RoIs, so that what a
chunk reads and writes stays in the caches. And the pooled features are materialised: fused with
what reads them, XLA would write all gathered cells to memory.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxseg.ops.batching import max_over_images
from jaxseg.ops.scheduling import materialize, zeros_after

Extent = tuple[int, int] | Int[Array, " 2"]

Maps = Sequence[Float[Array, "_ _ C"]]

MAX_ADAPTIVE_SAMPLES = 64
"""Largest number of samples of a bin along an axis with `sampling_ratio=0`; enough for bins of 64
cells. Only as many are computed as the largest bin needs."""

_MAX_UNROLLED_SAMPLES = 4
"""Up to this number of samples along an axis, XLA gets one sum over all taps, which it fuses."""

_CHUNK = 32
"""RoIs of a chunk on a CPU: the fastest of 16 to 1,000, measured on an AMD EPYC."""


class Taps(NamedTuple):
    """The cells that each bin of one axis reads, and their weights.

    S samples have two taps each. Only the first `used` samples have weight for any RoI.
    """

    cell: Int[Array, "R bins S 2"]
    weight: Float[Array, "R bins S 2"]
    used: Int[Array, ""]


def make_taps(
    boxes: Float[Array, "R 4"],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    rows: int | Int[Array, "*R"],
    columns: int | Int[Array, "*R"],
) -> tuple[Taps, Taps]:
    """Return the taps along y and x of RoIs, in cells of maps of `rows` x `columns` cells.

    The other arguments are those of `jaxseg.ops.roi_align`.
    """
    return (
        _axis_taps(boxes[:, 1], boxes[:, 3], output_size[0], sampling_ratio, aligned, rows),
        _axis_taps(boxes[:, 0], boxes[:, 2], output_size[1], sampling_ratio, aligned, columns),
    )


def _axis_taps(
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
    # The part of each sample in the mean of its bin, [R, bins, S].
    share = counted.astype(start.dtype) / jnp.maximum(count, 1)[:, None, None]
    return Taps(
        jnp.stack([low, jnp.minimum(low + 1, last)], axis=-1).astype(jnp.int32),  # [R, bins, S, 2]
        jnp.stack([(1 - fraction) * share, fraction * share], axis=-1),
        jnp.where(count > 0, count, 0).max(initial=0).astype(jnp.int32),  # NaN counts 0
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


@jax.jit  # traced once for all platforms
def pool_taps(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    """Return the bins of each RoI, from the map `maps[level]`.

    The cells are read in their own dtype, and summed in that of the weights, float32.
    """
    cells = jnp.concatenate([features.reshape(-1, features.shape[2]) for features in maps])

    def add(total: Array, index: Array, weight: Array) -> Array:
        # Taps are clamped to the maps, so indices are in bounds without checks.
        rows = cells.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return total + rows.astype(weight.dtype) * weight[..., None]

    shape = (*taps_y.cell.shape[:2], taps_x.cell.shape[1], cells.shape[1])
    start = jnp.zeros(shape, taps_y.weight.dtype)
    pooled = _over_taps(add, start, _in_list(taps_y, maps, level), taps_x)
    return lax.platform_dependent(
        pooled, taps_y.weight, cpu=materialize, default=lambda pooled, weight: pooled
    )


@jax.jit
def pool_taps_gradient(
    maps: Maps,
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
    gradient: Float[Array, "R oh ow C"],
) -> list[Float[Array, "_ _ C"]]:
    """Return the gradient of each map, given that of the bins.

    JAX's own gradient makes an array as large as all maps for every pair of taps and adds them up:
    up to twice the time on large maps. On a CPU the pairs of taps of each chunk are in a loop,
    whose body XLA computes in place.
    """
    if not gradient.size:
        return [jnp.zeros_like(features) for features in maps]
    ends = np.cumsum([features.shape[0] * features.shape[1] for features in maps])
    shape = (int(ends[-1]), gradient.shape[3])

    def add(total: Array, index: Array, weight: Array, gradient: Array) -> Array:
        update = gradient * weight[..., None]
        return total.at[index].add(update, mode="promise_in_bounds", wrap_negative_indices=False)

    def at_once(gradient: Array, taps_y: Taps, taps_x: Taps) -> Array:
        add_pair = functools.partial(add, gradient=gradient)
        return _over_taps(add_pair, jnp.zeros(shape, gradient.dtype), taps_y, taps_x)

    def in_chunks(gradient: Array, taps_y: Taps, taps_x: Taps) -> Array:
        return _over_chunks(add, zeros_after(shape, gradient), taps_y, taps_x, gradient)

    taps_y = _in_list(taps_y, maps, level)
    total = lax.platform_dependent(gradient, taps_y, taps_x, cpu=in_chunks, default=at_once)
    parts = jnp.split(total.astype(maps[0].dtype), ends[:-1])
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

    @jax.jit  # traced once for all samples
    def add_sample(total: Array, y: tuple[Array, Array], x: tuple[Array, Array]) -> Array:
        for a, b in itertools.product(range(2), range(2)):
            # [R, oh, 1] and [R, 1, ow]
            index = y[0][:, :, None, a] + x[0][:, None, :, b]
            weight = y[1][:, :, None, a] * x[1][:, None, :, b]
            total = add(total, index, weight)
        return total

    def sample(taps: Taps, number: int | Array) -> tuple[Array, Array]:  # [R, bins, 2] each
        return taps.cell[:, :, number], taps.weight[:, :, number]

    max_samples = taps_y.cell.shape[2]
    if max_samples <= _MAX_UNROLLED_SAMPLES:
        for y, x in itertools.product(range(max_samples), range(max_samples)):
            total = add_sample(total, sample(taps_y, y), sample(taps_x, x))
        return total

    rows, columns = (max_over_images(taps.used) for taps in (taps_y, taps_x))

    def add_row(y: Array, total: Array) -> Array:
        of_y = sample(taps_y, y)
        return lax.fori_loop(
            0, columns, lambda x, total: add_sample(total, of_y, sample(taps_x, x)), total
        )

    return lax.fori_loop(0, rows, add_row, total)


def _over_chunks(
    add: Callable[[Array, Array, Array, Array], Array],
    total: Array,
    taps_y: Taps,
    taps_x: Taps,
    gradient: Float[Array, "R oh ow C"],
) -> Array:
    """Return `total` after all chunks of RoIs, and of each one pair of taps after the other.

    `add` also gets the chunk's rows of `gradient`.
    """
    rois = gradient.shape[0]
    chunk = min(_CHUNK, rois)
    chunks = -(-rois // chunk)
    rows, columns = (2 * max_over_images(taps.used) for taps in (taps_y, taps_x))

    def add_pair(number: Array, total: Array) -> Array:
        index, pair = number // (rows * columns), number % (rows * columns)
        first = jnp.minimum(index * chunk, rois - chunk)
        # The last chunk begins with RoIs of the one before, which count once.
        is_new = first + jnp.arange(chunk) >= index * chunk
        (cell_y, weight_y), (cell_x, weight_x) = (
            (x.cell.reshape(*x.cell.shape[:2], -1), x.weight.reshape(*x.cell.shape[:2], -1))
            for x in (_rows(taps, first, chunk) for taps in (taps_y, taps_x))
        )  # [chunk, bins, S 2]
        y, x = pair // columns, pair % columns
        cell = cell_y[:, :, None, y] + cell_x[:, None, :, x]  # [chunk, oh, ow]
        weight = weight_y[:, :, None, y] * weight_x[:, None, :, x]
        weight = jnp.where(is_new[:, None, None], weight, 0)
        return add(total, cell, weight, lax.dynamic_slice_in_dim(gradient, first, chunk))

    return lax.fori_loop(0, chunks * rows * columns, add_pair, total)


def _rows(taps: Taps, first: Array, count: int) -> Taps:
    """Return the taps of `count` RoIs from number `first` on."""
    cell, weight = (lax.dynamic_slice_in_dim(x, first, count) for x in taps[:2])
    return Taps(cell, weight, taps.used)
