"""Compute areas, overlaps and clipping of boxes, and the R-CNN box code.

Boxes are `xyxy`, float32, in pixels, half-open. A box code ("deltas") is `dx, dy, dw, dh`:
the shift of the centre in units of the anchor's size and the logarithm of the ratio of
sizes, each times a weight (Girshick et al. 2013, arXiv 1311.2524, appendix C).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

Weights = tuple[float, float, float, float]
MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Largest `dw` and `dh` that are decoded, so that `exp` stays finite."""

_TINY = 1e-12


def box_area(boxes: Float[Array, "*N 4"]) -> Float[Array, "*N"]:
    """Return areas in square pixels; 0 for boxes with a negative side.

    >>> box_area(jnp.asarray([[0.0, 0.0, 4.0, 2.0], [4.0, 0.0, 0.0, 2.0]])).tolist()
    [8.0, 0.0]
    """
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)
    return width * height


def min_size_mask(boxes: Float[Array, "*N 4"], side: float) -> Bool[Array, "*N"]:
    """Return True for boxes that have an area and no side shorter than `side` pixels.

    >>> min_size_mask(jnp.asarray([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 1.0]]), 2.0).tolist()
    [True, False]
    """
    shorter = jnp.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
    return (shorter > 0) & (shorter >= side)


def intersection_area(a: Float[Array, "N 4"], b: Float[Array, "M 4"]) -> Float[Array, "N M"]:
    """Return the area that each pair of boxes has in common, in square pixels.

    >>> a, b = jnp.asarray([[0.0, 0.0, 4.0, 4.0]]), jnp.asarray([[2.0, 1.0, 6.0, 3.0]])
    >>> intersection_area(a, b).tolist()
    [[4.0]]
    """

    def overlap(start: int, end: int) -> Array:  # [N, M]
        first = jnp.maximum(a[:, None, start], b[None, :, start])
        last = jnp.minimum(a[:, None, end], b[None, :, end])
        return jnp.maximum(last - first, 0)

    # One axis at a time: an axis of two at the end would fill 128 lanes of a TPU's registers.
    return overlap(0, 2) * overlap(1, 3)


def box_iou(a: Float[Array, "N 4"], b: Float[Array, "M 4"]) -> Float[Array, "N M"]:
    """Return the intersection over union of each pair; 0 where both boxes are empty.

    >>> a, b = jnp.asarray([[0.0, 0.0, 4.0, 4.0]]), jnp.asarray([[0.0, 0.0, 4.0, 2.0]])
    >>> box_iou(a, b).tolist()
    [[0.5]]
    """
    intersection = intersection_area(a, b)
    union = box_area(a)[:, None] + box_area(b)[None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def clip_boxes(
    boxes: Float[Array, "*N 4"], image_size: Num[Array, " 2"] | tuple[int, int]
) -> Float[Array, "*N 4"]:
    """Clip boxes to an image of `image_size` `(height, width)`.

    >>> clip_boxes(jnp.asarray([[-2.0, 1.0, 9.0, 9.0]]), (6, 8)).tolist()
    [[0.0, 1.0, 8.0, 6.0]]
    """
    height, width = (jnp.asarray(side, boxes.dtype) for side in (image_size[0], image_size[1]))
    x = jnp.clip(boxes[..., 0::2], 0, width)
    y = jnp.clip(boxes[..., 1::2], 0, height)
    return jnp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def encode_boxes(
    boxes: Float[Array, "*N 4"], anchors: Float[Array, "*N 4"], weights: Weights = (1.0,) * 4
) -> Float[Array, "*N 4"]:
    """Return the deltas that lead from each anchor to its box; finite for degenerate boxes too.

    >>> anchor, box = jnp.asarray([[0.0, 0.0, 8.0, 8.0]]), jnp.asarray([[4.0, 0.0, 12.0, 8.0]])
    >>> encode_boxes(box, anchor).tolist()
    [[0.5, 0.0, 0.0, 0.0]]
    """
    x, y, width, height = _center_size(boxes)
    ax, ay, anchor_width, anchor_height = _center_size(anchors)
    anchor_width = jnp.maximum(anchor_width, _TINY)
    anchor_height = jnp.maximum(anchor_height, _TINY)
    return jnp.stack(
        [
            weights[0] * (x - ax) / anchor_width,
            weights[1] * (y - ay) / anchor_height,
            weights[2] * jnp.log(jnp.maximum(width, _TINY) / anchor_width),
            weights[3] * jnp.log(jnp.maximum(height, _TINY) / anchor_height),
        ],
        axis=-1,
    )


def decode_boxes(
    deltas: Float[Array, "*N 4"], anchors: Float[Array, "*N 4"], weights: Weights = (1.0,) * 4
) -> Float[Array, "*N 4"]:
    """Return the boxes that deltas lead to from their anchors; sizes bounded by `MAX_LOG_SCALE`.

    >>> anchor = jnp.asarray([[0.0, 0.0, 8.0, 8.0]])
    >>> decode_boxes(jnp.asarray([[0.5, 0.0, 0.0, 0.0]]), anchor).tolist()
    [[4.0, 0.0, 12.0, 8.0]]
    """
    ax, ay, anchor_width, anchor_height = _center_size(anchors)
    x = deltas[..., 0] / weights[0] * anchor_width + ax
    y = deltas[..., 1] / weights[1] * anchor_height + ay
    width = jnp.exp(jnp.minimum(deltas[..., 2] / weights[2], MAX_LOG_SCALE)) * anchor_width
    height = jnp.exp(jnp.minimum(deltas[..., 3] / weights[3], MAX_LOG_SCALE)) * anchor_height
    half_width, half_height = 0.5 * width, 0.5 * height
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _center_size(boxes: Float[Array, "*N 4"]) -> tuple[Array, Array, Array, Array]:
    """Return x and y of the centres, widths and heights, each `[*N]`."""
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height
