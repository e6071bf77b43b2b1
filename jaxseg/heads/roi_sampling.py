"""Match proposals with ground-truth boxes and sample the RoIs that the heads learn from.

Terms:
    P      proposal slots of an image, padded
    N      ground-truth slots of an image, padded
    R      RoI slots of an image, padded
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from jaxseg import ops
from jaxseg.types import Batch


class Proposals(NamedTuple):
    """Boxes that may hold an object, best first. No gradient flows through them."""

    boxes: Float[Array, "*B P 4"]
    valid: Bool[Array, "*B P"]


class RoIs(NamedTuple):
    """RoIs sampled for training, the positives first."""

    boxes: Float[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    positive: Bool[Array, "*B R"]
    gt_index: Int[Array, "*B R"]  # the object that a positive RoI is matched with


def candidate_ids(num_proposals: int, gt_boxes: Float[Array, "N 4"]) -> Int[Array, " P_plus_N"]:
    """Return a number for each proposal and, after them, each ground-truth box of an image.

    Random draws use it. A proposal's is its rank. A ground-truth box's is made of its coordinates,
    so that it depends neither on the order of the objects nor on padding; identical boxes share
    one.
    """
    positive_zeros = gt_boxes + 0.0
    x1, y1, x2, y2 = jax.lax.bitcast_convert_type(positive_zeros, jnp.uint32).T
    hashed = _mix(_mix(_mix(_mix(x1) ^ y1) ^ x2) ^ y2).astype(jnp.int32)
    return jnp.concatenate([jnp.arange(num_proposals), hashed | 1 << 30])


def _mix(x: UInt32[Array, " N"]) -> UInt32[Array, " N"]:
    """Return numbers of which every bit depends on all bits of `x` (the constants of lowbias32).

    The floats of round coordinates differ in their upper bits alone.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def match_proposals(
    proposals: Proposals,
    gt_boxes: Float[Array, "N 4"],
    gt_valid: Bool[Array, " N"],
    *,
    positive_iou: float,
    low_quality_overrides: bool,
) -> ops.Matches:
    """Match one image's proposals: positive from an IoU of `positive_iou` on, else negative.

    For `low_quality_overrides` see `BoxHeadConfig`.
    """
    return ops.match(
        ops.box_iou(proposals.boxes, gt_boxes),
        gt_valid,
        high=positive_iou,
        low=positive_iou,
        min_pos_iou=positive_iou if low_quality_overrides else None,
        low_quality_overrides=low_quality_overrides,
        anchor_valid=proposals.valid,
    )


def sample_rois(
    proposals: Proposals,
    batch: Batch,
    keys: Key[Array, " B"],
    *,
    batch_size_per_image: int,
    positive_fraction: float,
    positive_iou: float,
    low_quality_overrides: bool = False,
) -> tuple[RoIs, Bool[Array, "B R"]]:
    """Sample RoIs among the proposals and the ground-truth boxes of each image.

    Returns them, and which of the positive ones are ground-truth boxes.

    At most `positive_fraction` of the `batch_size_per_image` RoIs are positive; negatives fill the
    rest. `keys` are the images' own random keys. The order of the objects matters in one case only:
    a proposal that overlaps two of them by exactly the same IoU is matched with the first, as in
    torchvision and Detectron2.
    """
    match = functools.partial(match_proposals, positive_iou=positive_iou)

    def one_image(
        proposals: Proposals, gt_boxes: Array, gt_valid: Array, key: Array
    ) -> tuple[RoIs, Array]:
        candidates = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), proposals, Proposals(gt_boxes, gt_valid)
        )
        # The objects' own boxes override nothing: each is the best of its object.
        matches = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            match(proposals, gt_boxes, gt_valid, low_quality_overrides=low_quality_overrides),
            match(Proposals(gt_boxes, gt_valid), gt_boxes, gt_valid, low_quality_overrides=False),
        )
        sample = ops.sample_balanced(
            ops.random_priority(key, candidate_ids(len(proposals.boxes), gt_boxes)),
            matches.positive,
            matches.negative,
            size=batch_size_per_image,
            positive_fraction=positive_fraction,
        )
        boxes = jnp.where(sample.valid[:, None], candidates.boxes[sample.indices], 0)
        rois = RoIs(boxes, sample.valid, sample.positive, matches.gt_index[sample.indices])
        return rois, sample.positive & (sample.indices >= len(proposals.boxes))

    return jax.vmap(one_image)(proposals, batch.boxes, batch.valid, keys)
