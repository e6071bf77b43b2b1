"""Masks between a box's frame and the image's.

Terms:
    frame    the box that a mask's pixel grid covers: cell i of M spans
             `x1 + i / M * (x2 - x1)` to `x1 + (i + 1) / M * (x2 - x1)`
    sample   a point at which a mask is interpolated bilinearly between its cell centres

Pasting and cropping are separable: a weight matrix per axis, then two matrix products.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxseg.ops.roi_align import indexed_roi_align

_SAMPLES_PER_BIN = 2


def paste_masks(
    masks: Float[Array, "N M M"],
    boxes: Float[Array, "N 4"],
    image_size: tuple[int, int],
    *,
    integer_boxes: bool = True,
) -> Float[Array, "N H W"]:
    """Probabilities of every image pixel from masks in their boxes' frames; 0 outside.

    `image_size` is the static `(H, W)`. With `integer_boxes` each box is grown by one mask
    cell on every side and cut to whole pixels, as torchvision's `paste_masks_in_image` does
    (zeros where that raises); without, the mask is sampled at pixel centres over the box as
    it is, as Detectron2's and MMDetection's `grid_sample` do.
    """
    weights = _integer_paste_weights if integer_boxes else _continuous_paste_weights
    side = masks.shape[-1]
    weights_y = weights(boxes[:, 1], boxes[:, 3], side, image_size[0])
    weights_x = weights(boxes[:, 0], boxes[:, 2], side, image_size[1])
    return jnp.einsum("nhp,npq,nwq->nhw", weights_y, masks, weights_x)


def _continuous_paste_weights(
    start: Float[Array, " N"], end: Float[Array, " N"], side: int, size: int
) -> Float[Array, "N size side"]:
    """Interpolation with zeros beyond the mask, so that its rim fades within half a cell."""
    length = end - start
    usable = length > 0
    pixel = jnp.arange(size, dtype=start.dtype) + 0.5
    scale = side / jnp.where(usable, length, 1)
    position = (pixel[None, :] - start[:, None]) * scale[:, None] - 0.5
    return _tent(position, side) * usable[:, None, None]


def _integer_paste_weights(
    start: Float[Array, " N"], end: Float[Array, " N"], side: int, size: int
) -> Float[Array, "N size side"]:
    """Torchvision's: the mask with a rim of zeros is resized to a box of whole pixels."""
    grown = (side + 2) / side
    center, half = (start + end) * 0.5, (end - start) * 0.5 * grown
    first = jnp.trunc(center - half)
    length = jnp.maximum(jnp.trunc(center + half) - first + 1, 1)
    offset = jnp.arange(size, dtype=start.dtype)[None, :] - first[:, None]
    inside = (offset >= 0) & (offset < length[:, None])
    position = (offset + 0.5) * ((side + 2) / length)[:, None] - 0.5
    position = jnp.clip(position, 0, side + 1)
    # The rim's cells are 0 and `side + 1`; they hold zeros and are left out.
    return _tent(position - 1, side) * inside[..., None]


def mask_targets(
    masks: Bool[Array, "N h w"] | Num[Array, "N h w"],
    frames: Float[Array, "N 4"],
    rois: Float[Array, "R 4"],
    gt_index: Int[Array, " R"],
    *,
    size: int,
) -> Float[Array, "R size size"]:
    """What the mask head should answer for each RoI: its object's mask inside it.

    `masks[i]` covers `frames[i]`, in practice a crop to the object's own box. A cell's value is
    the mean of two by two samples of the crop, 0 outside the frame, so it is soft. Thresholded
    at one half it is what `bitmap_targets` makes of the mask of the whole image, but for the
    few cells that the crop's grid rounds otherwise (docs/benchmarks.md says how many).
    """
    if masks.shape[0] == 0:
        return jnp.zeros((rois.shape[0], size, size), rois.dtype)
    frame = frames[gt_index]
    weights_y = _target_weights(
        rois[:, 1], rois[:, 3], frame[:, 1], frame[:, 3], size, masks.shape[1]
    )
    weights_x = _target_weights(
        rois[:, 0], rois[:, 2], frame[:, 0], frame[:, 2], size, masks.shape[2]
    )
    chosen = masks[gt_index].astype(weights_y.dtype)
    return jnp.einsum("rph,rhw,rqw->rpq", weights_y, chosen, weights_x)


def bitmap_targets(
    masks: Bool[Array, "N H W"] | Num[Array, "N H W"],
    rois: Float[Array, "R 4"],
    gt_index: Int[Array, " R"],
    image_size: Int[Array, " 2"] | tuple[int, int],
    *,
    size: int,
    aligned: bool,
) -> Float[Array, "R size size"]:
    """The references' targets, from masks of the whole image: their adaptive RoIAlign, soft.

    The masks may be padded; `image_size` is the image's true `(height, width)`.
    Torchvision pools without `aligned`, half a pixel further to the right and below, and
    learns the soft values. Detectron2 and MMDetection pool with it and threshold at one half.
    """
    if masks.shape[0] == 0:
        return jnp.zeros((rois.shape[0], size, size), rois.dtype)
    maps = masks[..., None].astype(rois.dtype)
    pooled = indexed_roi_align(
        maps,
        gt_index,
        rois,
        output_size=(size, size),
        sampling_ratio=0,
        aligned=aligned,
        extent=image_size,
    )
    return pooled[..., 0]


def _target_weights(
    start: Float[Array, " R"],
    end: Float[Array, " R"],
    frame_start: Float[Array, " R"],
    frame_end: Float[Array, " R"],
    bins: int,
    side: int,
) -> Float[Array, "R bins side"]:
    """Mean of each bin's samples along one axis of a mask of `side` cells."""
    length = frame_end - frame_start
    scale = side / jnp.where(length > 0, length, 1)
    count = bins * _SAMPLES_PER_BIN
    part = (jnp.arange(count, dtype=start.dtype) + 0.5) / count
    # Counted from the frame's start, which keeps the digits that a place in the image would take.
    point = (start - frame_start)[:, None] + part[None, :] * (end - start)[:, None]
    position = point * scale[:, None]
    inside = (position >= 0) & (position <= side) & (length > 0)[:, None]
    weights = _tent(jnp.clip(position - 0.5, 0, side - 1), side) * inside[..., None]
    return weights.reshape(-1, bins, _SAMPLES_PER_BIN, side).mean(axis=2)


def _tent(position: Float[Array, "N P"], side: int) -> Float[Array, "N P side"]:
    """Bilinear weights of `side` cells for positions counted in cells from the first's centre."""
    cell = jnp.arange(side, dtype=position.dtype)
    return jnp.maximum(1 - jnp.abs(position[..., None] - cell[None, None, :]), 0)
