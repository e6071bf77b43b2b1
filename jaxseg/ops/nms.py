"""Greedy non-maximum suppression as a fixed point.

Greedy NMS goes through the boxes from the best score down and keeps a box unless one kept
before overlaps it by more than the threshold. What it keeps is the only solution of

    keep[j] = valid[j] and no better i has keep[i] and overlaps j

so it can be found by applying that rule to all boxes at once until nothing changes. The
number of rounds is the longest chain of boxes that suppress each other, a few in practice.
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
    """Which boxes greedy NMS keeps; ties in score go to the lower index.

    Boxes that are not `valid` are neither kept nor suppress others. Takes O(N^2) memory.
    """
    same = jnp.zeros(boxes.shape[0], jnp.int32)
    return batched_nms(boxes, scores, same, iou_threshold, valid)


def batched_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    labels: Int[Array, " N"],
    iou_threshold: float | Float[Array, ""],
    valid: Bool[Array, " N"] | None = None,
) -> Bool[Array, " N"]:
    """`nms` in which only boxes with the same label suppress each other."""
    if valid is None:
        valid = jnp.ones(boxes.shape[0], bool)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, labels, valid = boxes[order], labels[order], valid[order]
    rank = jnp.arange(boxes.shape[0])
    suppresses = (
        (box_iou(boxes, boxes) > iou_threshold)
        & (labels[:, None] == labels[None, :])
        & (rank[:, None] < rank[None, :])
    ).astype(jnp.float32)

    def apply_rule(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = carry
        now = valid & (keep.astype(jnp.float32) @ suppresses == 0)
        return now, (now != keep).any()

    start = (valid, jnp.asarray(True))
    keep, _ = jax.lax.while_loop(lambda carry: carry[1], apply_rule, start)
    return jnp.zeros_like(keep).at[order].set(keep)
