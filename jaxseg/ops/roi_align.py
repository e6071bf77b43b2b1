"""RoIAlign (He et al. 2017, arXiv 1703.06870, section 3): features of a box at a fixed size.

Terms:
    R        RoIs: boxes whose features are pooled, in pixels of the image
    bin      one of the `oh x ow` equal parts of a RoI
    extent   the `(h, w)` part of a feature map that is image; the rest is padding

A bin is a weighted sum of cells, as bilinear interpolation weighs them, by one of two methods:

    taps     gathers these cells (`jaxseg.ops.roi_taps`)
    tiles    multiplies matrices of weights by tiles of the maps (`jaxseg.ops.roi_tiles`)

`auto` is `tiles` on a TPU if the number of channels is a multiple of `TPU_LANES`, and otherwise
`taps`, on a TPU for one image after the other. The results differ by rounding. Only `tiles` needs
maps that are finite everywhere, in their padding too. From a box that is not finite it pools 0,
`taps` NaN.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.ops.batching import one_by_one
from jaxseg.ops.boxes import box_area
from jaxseg.ops.roi_taps import Extent, Maps, Taps, make_taps, pool_taps, pool_taps_gradient
from jaxseg.ops.roi_tiles import pool_tiles, pool_tiles_gradient

Method = Literal["auto", "taps", "tiles"]

TPU_LANES = 128
"""Channels that a TPU computes at once."""


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
    taps = make_taps(scaled, output_size, sampling_ratio, aligned, rows, columns)
    level = jnp.zeros(len(boxes), jnp.int32)
    return _pool((features,), level, *taps, "auto")


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
    levels; see `assign_levels`. `method` chooses between gathers ("taps") and products of matrices
    ("tiles"), which differ by rounding; "auto" chooses by the platform. The rest is as for
    `roi_align`. Raises `ValueError` unless the strides are powers of two, each twice the one
    before.

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
    taps = make_taps(scaled, output_size, sampling_ratio, aligned, rows, columns)
    return _pool(tuple(pyramid[stride] for stride in strides), level, *taps, method)


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
    taps_y, taps_x = make_taps(boxes, output_size, sampling_ratio, aligned, rows, columns)
    # Stack the maps, one below the other, into a single map.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _pool(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps, method: Method
) -> Float[Array, "R oh ow C"]:
    """Return the bins of each RoI, from the map `maps[level]`."""
    pool = _by_method(method, maps, taps=pool_taps, tiles=pool_tiles)
    return pool(maps, level, taps_y, taps_x)


def _pool_forward(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps, method: Method
) -> tuple[Array, tuple[Any, ...]]:
    return _pool(maps, level, taps_y, taps_x, method), (maps, level, taps_y, taps_x)


def _pool_backward(
    method: Method, saved: tuple[Any, ...], gradient: Float[Array, "R oh ow C"]
) -> tuple[Maps, None, None, None]:
    pull = _by_method(method, saved[0], taps=pool_taps_gradient, tiles=pool_tiles_gradient)
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
