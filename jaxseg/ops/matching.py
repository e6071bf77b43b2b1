"""Which ground-truth box each anchor (or proposal) stands for, by overlap.

positive   overlaps some box by at least `high`: learns to find it
negative   overlaps no box by `low` or more: learns that nothing is there
neither    in between: left out
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Matches(NamedTuple):
    """`gt` is the box that an anchor stands for, and means something for positives only."""

    gt_index: Int[Array, " A"]
    positive: Bool[Array, " A"]
    negative: Bool[Array, " A"]


def match(
    iou: Float[Array, "A N"],
    gt_valid: Bool[Array, " N"],
    *,
    high: float,
    low: float,
    low_quality: float | None,
    claims: bool = False,
    anchor_valid: Bool[Array, " A"] | None = None,
) -> Matches:
    """Matches A anchors with N padded ground-truth boxes (Ren et al. 2015, section 3.1.2).

    With `low_quality`, the anchors that overlap a box most (ties included) become positive if
    that overlap is at least `low_quality`: 0 in torchvision and Detectron2, so that even a box
    that overlaps nothing claims anchors, 0.3 in MMDetection. Such an anchor stands for the box
    that it itself overlaps most or, with `claims` (MMDetection), for the last of the boxes
    that it is best for.

    An anchor that is not `anchor_valid` is neither positive nor negative. Without any valid
    box every anchor is negative.
    """
    if anchor_valid is None:
        anchor_valid = jnp.ones(iou.shape[0], bool)
    possible = gt_valid[None, :] & anchor_valid[:, None]
    overlap = jnp.where(possible, iou, -1)
    best = overlap.max(axis=1, initial=-1)
    positive = best >= high
    gt = overlap.argmax(axis=1) if iou.shape[1] else jnp.zeros(iou.shape[0], jnp.int32)
    if low_quality is not None and iou.shape[1]:
        best_of_gt = overlap.max(axis=0, initial=-1)
        best_of_gt = jnp.where(best_of_gt >= low_quality, best_of_gt, jnp.inf)
        claimed = possible & (overlap == best_of_gt[None, :])
        positive |= claimed.any(axis=1)
        if claims:
            last = iou.shape[1] - 1 - claimed[:, ::-1].argmax(axis=1)
            gt = jnp.where(claimed.any(axis=1), last, gt)
    negative = (best < low) & ~positive & anchor_valid
    return Matches(gt.astype(jnp.int32), positive & anchor_valid, negative)
