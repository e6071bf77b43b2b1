"""Masks: from a box's frame to the image's and back, and the boxes of masks.

Terms:
    N        masks of an image
    R        RoIs of an image
    frame    the box that a mask's pixel grid covers: cell i of M spans
             `x1 + i / M * (x2 - x1)` to `x1 + (i + 1) / M * (x2 - x1)`
    sample   a point at which a mask is interpolated bilinearly between its cell centres

Pasting and cropping are separable: a weight matrix for each axis, then two matrix products.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxseg.ops.bilinear import Paste, bilinear_weights, paste_weights
from jaxseg.ops.roi_align import indexed_roi_align

_SAMPLES_PER_BIN = 2
_EXACT = jax.lax.Precision.HIGHEST
"""A TPU's default is bfloat16, a GPU's may be TF32: cells that are half covered would flip."""


def paste_masks(
    masks: Float[Array, "N M M"],
    boxes: Float[Array, "N 4"],
    image_size: tuple[int, int],
    *,
    paste: Paste = "integer",
) -> Float[Array, "N H W"]:
    """Return each image pixel's probability, from masks in the frames of their boxes; 0 outside.

    Boxes are `xyxy` in pixels, `image_size` is the static `(H, W)`. `paste` (see
    `jaxseg.ops.bilinear.Paste`): "integer" equals torchvision's `paste_masks_in_image` (zeros where
    that raises), "grid_sample" Detectron2's and MMDetection's `grid_sample`. Takes O(N H W) memory.

    >>> mask = jnp.ones((1, 2, 2))
    >>> box = jnp.asarray([[1.0, 0.0, 3.0, 2.0]])
    >>> paste_masks(mask, box, (3, 4), paste="grid_sample")[0].tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    cells = masks.shape[-1]
    rows, columns = (jnp.arange(pixels, dtype=boxes.dtype) for pixels in image_size)
    weights_y = paste_weights(boxes[:, 1], boxes[:, 3], cells, rows, paste)  # [N, H, M]
    weights_x = paste_weights(boxes[:, 0], boxes[:, 2], cells, columns, paste)  # [N, W, M]
    return jnp.einsum("nhp,npq,nwq->nhw", weights_y, masks, weights_x, precision=_EXACT)


def boxes_from_masks(
    masks: Bool[Array, "N h w"], image_size: Num[Array, " 2"] | tuple[int, int], *, stride: int = 1
) -> Float[Array, "N 4"]:
    """Return the tight `xyxy` box of each mask, in pixels; zeros for an empty mask.

    A mask's cell covers `stride x stride` pixels. Boxes are clipped to `image_size`
    `(height, width)`.

    >>> masks = jnp.asarray([[[False, False, False], [False, True, True]]])
    >>> boxes_from_masks(masks, (8, 10), stride=4).tolist()
    [[4.0, 4.0, 10.0, 8.0]]
    """

    def span(occupied: Bool[Array, "N _"], size: Array | int) -> tuple[Array, Array]:
        first = occupied.argmax(1)  # argmax is the first True; [N]
        stop = occupied.shape[1] - occupied[:, ::-1].argmax(1)
        return jnp.minimum(first * stride, size), jnp.minimum(stop * stride, size)

    y1, y2 = span(masks.any(2), image_size[0])
    x1, x2 = span(masks.any(1), image_size[1])
    boxes = jnp.stack([x1, y1, x2, y2], axis=1).astype(jnp.float32)
    return jnp.where(masks.any((1, 2))[:, None], boxes, 0)


def mask_targets(
    masks: Bool[Array, "N h w"] | Num[Array, "N h w"],
    frames: Float[Array, "N 4"],
    rois: Float[Array, "R 4"],
    gt_index: Int[Array, " R"],
    *,
    size: int,
) -> Float[Array, "R size size"]:
    """Return the mask head's target for each RoI: the mask of object `gt_index`, inside the RoI.

    `masks[i]` covers `frames[i]`, in practice a crop to the object's own box. A cell's value is
    the mean of two by two samples of the crop, 0 outside the frame, so it is soft. Thresholded at
    one half it equals `bitmap_targets` of the mask of the whole image, except for the few cells
    that the crop's grid rounds otherwise (docs/benchmarks.md counts them).

    >>> mask = jnp.asarray([[[True, False], [True, False]]])
    >>> box = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])
    >>> mask_targets(mask, box, box, jnp.asarray([0]), size=2)[0].tolist()
    [[0.875, 0.125], [0.875, 0.125]]
    """
    if masks.shape[0] == 0:
        return jnp.zeros((rois.shape[0], size, size), rois.dtype)
    frame = frames[gt_index]  # [R, 4]
    weights_y = _target_weights(  # [R, size, h]
        rois[:, 1], rois[:, 3], frame[:, 1], frame[:, 3], size, masks.shape[1]
    )
    weights_x = _target_weights(  # [R, size, w]
        rois[:, 0], rois[:, 2], frame[:, 0], frame[:, 2], size, masks.shape[2]
    )
    roi_masks = masks[gt_index].astype(weights_y.dtype)  # [R, h, w]
    return jnp.einsum("rph,rhw,rqw->rpq", weights_y, roi_masks, weights_x, precision=_EXACT)


def bitmap_targets(
    masks: Bool[Array, "N H W"] | Num[Array, "N H W"],
    rois: Float[Array, "R 4"],
    gt_index: Int[Array, " R"],
    image_size: Int[Array, " 2"] | tuple[int, int],
    *,
    size: int,
    aligned: bool,
) -> Float[Array, "R size size"]:
    """Return other codebases' targets: adaptive RoIAlign of the masks of the whole image, soft.

    The masks may be padded; `image_size` is the image's true `(height, width)`.
    Torchvision pools without `aligned`, half a pixel further to the right and below, and
    learns the soft values. Detectron2 and MMDetection pool with it and threshold at one half.

    >>> mask = jnp.zeros((1, 4, 4)).at[:, :, :2].set(1)
    >>> roi = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])
    >>> bitmap_targets(mask, roi, jnp.asarray([0]), (4, 4), size=2, aligned=True)[0].tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """
    if masks.shape[0] == 0:
        return jnp.zeros((rois.shape[0], size, size), rois.dtype)
    pooled = indexed_roi_align(
        masks[..., None].astype(rois.dtype),
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
    cells: int,
) -> Float[Array, "R bins cells"]:
    """Return the weights of a mask's cells in each bin's mean of samples, along one axis."""
    length = frame_end - frame_start
    scale = cells / jnp.where(length > 0, length, 1)
    samples = bins * _SAMPLES_PER_BIN
    fraction = (jnp.arange(samples, dtype=start.dtype) + 0.5) / samples  # of the RoI; [samples]
    # Counted from the frame's start, which keeps the digits that image coordinates would take.
    point = (start - frame_start)[:, None] + fraction[None, :] * (end - start)[:, None]
    point = point * scale[:, None]  # in cells from the frame's start; [R, samples]
    inside = (point >= 0) & (point <= cells) & (length > 0)[:, None]
    # Cell centres are at halves; within half a cell of the border the outer cell is repeated.
    weights = bilinear_weights(jnp.clip(point - 0.5, 0, cells - 1), cells)
    weights = jnp.where(inside[..., None], weights, 0)  # [R, samples, cells]
    return weights.reshape(-1, bins, _SAMPLES_PER_BIN, cells).mean(axis=2)
