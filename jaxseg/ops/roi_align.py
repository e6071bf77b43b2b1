"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3): features of a box at a fixed size.

Terms:
    RoI      a box whose features are pooled, in pixels of the image
    bin      one of the `oh x ow` equal parts of a RoI
    sample   a point in a bin, `sampling_ratio` of them along each axis; a bin's value is
             the mean of its samples
    tap      one of the two cells, along one axis, that a sample is interpolated from
    extent   the `(h, w)` part of a feature map that is image; beyond it lies padding

Bilinear interpolation is separable, so each axis has a list of taps for each bin (a cell
of the map and a weight), and a bin is the weighted sum over the taps of its row and its
column. Two ways to compute that sum give the same result:

    gather        one vectorised gather of all taps' rows of C channels, then the sum. Its
                  gradient is a scatter-add.
    contraction   the taps as a dense weight matrix per axis, then two matrix products. Its
                  gradient is two more. Cheaper where the map is small.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops.boxes import box_area

MAX_ADAPTIVE_SAMPLES = 16
"""Most samples of a bin along an axis with `sampling_ratio=0`; enough for bins of 16 cells."""

CONTRACTION_CELLS = 64 * 64
"""Largest (finest) map that is pooled by contraction; see docs/benchmarks.md."""

Extent = tuple[int, int] | Int[Array, " 2"]


class Taps(NamedTuple):
    """Where each bin of an axis reads a map, and how much each reading counts."""

    cell: Int[Array, "R bins T"]
    weight: Float[Array, "R bins T"]


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
    others are clamped to it; `extent` makes the map end earlier for both.
    """
    height, width, _ = features.shape
    rows, columns = height if extent is None else extent[0], width if extent is None else extent[1]
    scaled = boxes * spatial_scale
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)
    if height * width <= CONTRACTION_CELLS:
        return _contract(features, _dense(taps_y, height), _dense(taps_x, width))
    return _gather(features.reshape(height * width, -1), taps_y, taps_x, 0, width)


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

    `pyramid` maps strides (powers of two, each twice the one before) to feature maps. The
    level is that of Lin et al. 2017, equation 1, cut to the levels there are. `extent` gives
    each map's, by stride.
    """
    strides = sorted(pyramid)
    level = assign_levels(boxes, strides, canonical_size, canonical_level)
    shapes = [pyramid[stride].shape[:2] for stride in strides]
    if extent is None:
        ends = jnp.asarray(shapes)
    else:
        ends = jnp.stack([jnp.asarray(extent[stride]) for stride in strides])
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None]
    rows, columns = ends[level, 0], ends[level, 1]
    taps_y = _taps(scaled[:, 1], scaled[:, 3], output_size[0], sampling_ratio, aligned, rows)
    taps_x = _taps(scaled[:, 0], scaled[:, 2], output_size[1], sampling_ratio, aligned, columns)

    maps = [pyramid[stride] for stride in strides]
    if math.prod(shapes[0]) <= CONTRACTION_CELLS:
        return _contract_levels(maps, level, taps_y, taps_x)
    return _gather_levels(maps, level, taps_y, taps_x)


def assign_levels(
    boxes: Float[Array, "R 4"], strides: list[int], canonical_size: float, canonical_level: int
) -> Int[Array, " R"]:
    """The place in `strides` of the level each box is pooled from.

    A box of `canonical_size` squared goes to the level of stride `2 ** canonical_level`.
    """
    lowest = int(math.log2(strides[0]))
    side = jnp.sqrt(box_area(boxes))
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)
    return jnp.clip(level - lowest, 0, len(strides) - 1).astype(jnp.int32)


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
    adaptive = jnp.clip(jnp.ceil(bin_size), 0, most)
    count = jnp.full_like(start, sampling_ratio) if sampling_ratio else adaptive
    sample = jnp.arange(most, dtype=start.dtype)
    step = bin_size / jnp.maximum(count, 1)
    offset = (sample + 0.5)[None, :] * step[:, None]
    bin_start = start[:, None] + jnp.arange(bins, dtype=start.dtype)[None, :] * bin_size[:, None]
    position = bin_start[:, :, None] + offset[:, None, :]
    used = (sample[None, :] < count[:, None])[:, None, :]
    used &= (position >= -1) & (position <= last + 1)
    position = jnp.clip(position, 0, jnp.maximum(last, 0).astype(start.dtype))
    low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low
    share = used / jnp.maximum(count, 1)[:, None, None]
    return Taps(
        jnp.concatenate([low, jnp.minimum(low + 1, jnp.maximum(last, 0))], axis=-1),
        jnp.concatenate([(1 - fraction) * share, fraction * share], axis=-1),
    )


def _contract_levels(
    maps: Sequence[Float[Array, "_ _ C"]], level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    """Every RoI from every map, with weights of zero but on its own level."""
    pooled = jnp.zeros((), maps[0].dtype)
    for number, features in enumerate(maps):
        own = (level == number)[:, None, None]
        weights_y = _dense(taps_y, features.shape[0]) * own
        pooled = pooled + _contract(features, weights_y, _dense(taps_x, features.shape[1]))
    return pooled


def _gather_levels(
    maps: Sequence[Float[Array, "_ _ C"]], level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    """One gather from all maps' cells in one list."""
    sizes = [features.shape[0] * features.shape[1] for features in maps]
    cells = [features.reshape(-1, features.shape[2]) for features in maps]
    first = jnp.asarray(np.cumsum([0, *sizes[:-1]]))[level]
    width = jnp.asarray([features.shape[1] for features in maps])[level]
    return _gather(jnp.concatenate(cells), taps_y, taps_x, first, width)


def _gather(
    cells: Float[Array, "K C"],
    taps_y: Taps,
    taps_x: Taps,
    first: int | Int[Array, " R"],
    width: int | Int[Array, " R"],
) -> Float[Array, "R oh ow C"]:
    """The sum over taps, with every map's cells in one list; a RoI's map starts at `first`."""
    rows = taps_y.cell * _per_roi(width) + _per_roi(first)
    index = rows[:, :, None, :, None] + taps_x.cell[:, None, :, None, :]
    return jnp.einsum(
        "rpqtuc,rpt,rqu->rpqc", cells[index], taps_y.weight, taps_x.weight, optimize="optimal"
    )


def _per_roi(value: int | Int[Array, " R"]) -> Array:
    return jnp.asarray(value).reshape(-1, 1, 1)


def _dense(taps: Taps, size: int) -> Float[Array, "R bins size"]:
    """Taps as a matrix from the cells of a map's axis to bins."""
    hit: Bool[Array, "R bins T size"] = taps.cell[..., None] == jnp.arange(size)[None, None, None]
    return jnp.where(hit, taps.weight[..., None], 0).sum(axis=2)


def _contract(
    features: Float[Array, "H W C"],
    weights_y: Float[Array, "R oh H"],
    weights_x: Float[Array, "R ow W"],
) -> Float[Array, "R oh ow C"]:
    rows = jnp.einsum("rph,hwc->rpwc", weights_y, features)
    return jnp.einsum("rqw,rpwc->rpqc", weights_x, rows)
