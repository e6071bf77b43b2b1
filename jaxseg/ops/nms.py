"""Compute greedy non-maximum suppression as a fixed point.

Greedy NMS goes through the boxes from the best score down and keeps a box unless one kept
before overlaps it by more than the threshold. The kept boxes are the only solution of

    keep[j] = valid[j] and no better i has keep[i] and overlaps j

so applying that rule to all boxes at once, until nothing changes, finds them. The number of
rounds is the longest chain of boxes that suppress each other, a few in practice.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops.boxes import box_iou


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    iou_threshold: float | Float[Array, ""],
    valid: Bool[Array, " N"] | None = None,
) -> Bool[Array, " N"]:
    """Return True for each box (`xyxy`) that greedy NMS keeps.

    Of equal scores the lower index is the better one. Boxes that are not `valid` are neither kept
    nor suppress others. Takes O(N^2) memory.

    >>> boxes = jnp.asarray([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 9.0]])
    >>> nms(boxes, jnp.asarray([0.8, 0.9, 0.7]), 0.5).tolist()
    [False, True, True]
    """
    same_label = jnp.zeros(boxes.shape[0], jnp.int32)
    return batched_nms(boxes, scores, same_label, iou_threshold, valid)


def batched_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    labels: Int[Array, " N"],
    iou_threshold: float | Float[Array, ""],
    valid: Bool[Array, " N"] | None = None,
) -> Bool[Array, " N"]:
    """Return the boxes that `nms` keeps if only those with the same label suppress each other.

    >>> boxes = jnp.asarray([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
    >>> batched_nms(boxes, jnp.asarray([0.8, 0.9]), jnp.asarray([1, 2]), 0.5).tolist()
    [True, True]
    """
    if valid is None:
        valid = jnp.ones(boxes.shape[0], bool)
    # From here on, all arrays are in descending order of score.
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, labels, valid = boxes[order], labels[order], valid[order]
    rank = jnp.arange(boxes.shape[0])
    suppresses = (  # [N, N]: the row's box is better than the column's and overlaps it
        (box_iou(boxes, boxes) > iou_threshold)
        & (labels[:, None] == labels[None, :])
        & (rank[:, None] < rank[None, :])
    )

    def apply_rule(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = carry
        suppressed = (keep[:, None] & suppresses).any(axis=0)  # [N]
        updated = valid & ~suppressed
        return updated, (updated != keep).any()

    start = (valid, jnp.asarray(True))
    keep, _ = jax.lax.while_loop(lambda carry: carry[1], apply_rule, start)
    return jnp.zeros_like(keep).at[order].set(keep)  # back in the order of the arguments
