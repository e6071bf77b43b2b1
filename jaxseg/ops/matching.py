"""Which ground-truth box each anchor (or proposal) stands for, by overlap.

positive   overlaps some box by at least `high`: learns to find it
negative   overlaps no box by `low` or more: learns that nothing is there
neither    in between: left out
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Matches(NamedTuple):
    """`gt` is the box with the largest overlap, and means something for positives only."""

    gt: Int[Array, " A"]
    positive: Bool[Array, " A"]
    negative: Bool[Array, " A"]


def match(
    iou: Float[Array, "A N"],
    gt_valid: Bool[Array, " N"],
    *,
    high: float,
    low: float,
    low_quality: bool,
    anchor_valid: Bool[Array, " A"] | None = None,
) -> Matches:
    """Matches A anchors with N padded ground-truth boxes (Ren et al. 2015, section 3.1.2).

    With `low_quality`, the anchors that overlap a box most (ties included) become positive
    whatever that overlap is, even 0, as in torchvision's and Detectron2's matchers; they
    stand for the box that they themselves overlap most. An anchor that is not `anchor_valid`
    is neither positive nor negative. Without any valid box every anchor is negative.
    """
    if anchor_valid is None:
        anchor_valid = jnp.ones(iou.shape[0], bool)
    possible = gt_valid[None, :] & anchor_valid[:, None]
    overlap = jnp.where(possible, iou, -1)
    best = overlap.max(axis=1, initial=-1)
    positive = best >= high
    if low_quality:
        best_of_gt = overlap.max(axis=0, initial=-1)
        positive |= (possible & (overlap == best_of_gt[None, :])).any(axis=1)
    gt = overlap.argmax(axis=1) if iou.shape[1] else jnp.zeros(iou.shape[0], jnp.int32)
    negative = (best < low) & ~positive & anchor_valid
    return Matches(gt.astype(jnp.int32), positive & anchor_valid, negative)
