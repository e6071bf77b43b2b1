"""The cells that the bins of RoIs are interpolated from, and their weights, along one axis.

Terms, beside those of `jaxseg.ops.roi_align`:
    sample   a point in a bin, `sampling_ratio` of them along each axis; a bin's value is
             the mean of its samples
    S        samples of a bin along one axis
    tap      one of the two cells, along one axis, that a sample is interpolated from

Bilinear interpolation is separable, so each axis has its own taps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Extent = tuple[int, int] | Int[Array, " 2"]

MAX_ADAPTIVE_SAMPLES = 64
"""Largest number of samples of a bin along an axis with `sampling_ratio=0`; enough for bins of 64
cells. Only as many are computed as the largest bin needs."""


class Taps(NamedTuple):
    """The cells that each bin of one axis reads, and their weights.

    S samples have two taps each. Only the first `used` samples have weight for any RoI.
    """

    cell: Int[Array, "R bins S 2"]
    weight: Float[Array, "R bins S 2"]
    used: Int[Array, ""]


def make_taps(
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
