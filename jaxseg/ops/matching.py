"""Match anchors or proposals with ground-truth boxes, by overlap.

Terms:
    A          anchors (or proposals)
    N          ground-truth boxes of an image, padded
    positive   overlaps some box by at least `high`: learns to find it
    negative   overlaps no box by `low` or more: learns that no object is there
    neither    in between: left out
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Matches(NamedTuple):
    """The match of each anchor; `gt_index` is its box, and has a meaning for positives only."""

    gt_index: Int[Array, " A"]
    positive: Bool[Array, " A"]
    negative: Bool[Array, " A"]


def match(
    iou: Float[Array, "A N"],
    gt_valid: Bool[Array, " N"],
    *,
    high: float,
    low: float,
    min_pos_iou: float | None,
    low_quality_overrides: bool = False,
    anchor_valid: Bool[Array, " A"] | None = None,
) -> Matches:
    """Match A anchors with N padded ground-truth boxes (Ren et al. 2015, section 3.1.2).

    Args:
        iou: intersection over union of each pair.
        gt_valid: False for padding. Without any valid box every anchor is negative.
        high: least IoU of a positive anchor.
        low: negative anchors have a smaller IoU with every box.
        min_pos_iou: also make those anchors positive that overlap a box most, ties included, if
            that IoU is at least this ("low-quality matches"): 0 in torchvision and Detectron2, so
            that even a box without any overlap makes anchors positive, 0.3 in MMDetection. None
            turns them off.
        low_quality_overrides: match such an anchor with the last of the boxes that it is best for,
            as MMDetection does, and not with the box that it overlaps most itself.
        anchor_valid: anchors that are not valid are neither positive nor negative.

    >>> iou = jnp.asarray([[0.8, 0.1], [0.1, 0.4], [0.1, 0.2]])
    >>> matches = match(iou, jnp.asarray([True, True]), high=0.7, low=0.3, min_pos_iou=0.0)
    >>> matches.positive.tolist(), matches.negative.tolist(), matches.gt_index[:2].tolist()
    ([True, True, False], [False, False, True], [0, 1])
    """
    num_anchors, num_gt = iou.shape
    if anchor_valid is None:
        anchor_valid = jnp.ones(num_anchors, bool)
    possible = gt_valid[None, :] & anchor_valid[:, None]  # [A, N]
    overlap = jnp.where(possible, iou, -1)
    best = overlap.max(axis=1, initial=-1)  # [A]
    positive = best >= high
    gt_index = overlap.argmax(axis=1) if num_gt else jnp.zeros(num_anchors, jnp.int32)
    if min_pos_iou is not None and num_gt:
        best_of_gt = overlap.max(axis=0, initial=-1)  # [N]
        best_of_gt = jnp.where(best_of_gt >= min_pos_iou, best_of_gt, jnp.inf)
        low_quality = possible & (overlap == best_of_gt[None, :])  # [A, N]
        positive |= low_quality.any(axis=1)
        if low_quality_overrides:
            last = num_gt - 1 - low_quality[:, ::-1].argmax(axis=1)  # argmax is the first True
            gt_index = jnp.where(low_quality.any(axis=1), last, gt_index)
    negative = (best < low) & ~positive & anchor_valid
    return Matches(gt_index.astype(jnp.int32), positive & anchor_valid, negative)
