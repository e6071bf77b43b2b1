"""Proposals of the RPN."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.heads.rpn import (
    Anchors,
    RPNConfig,
    RPNOutput,
    generate_proposals,
    rpn_losses,
    sample_anchors,
)
from jaxseg.types import Batch

CONFIG = RPNConfig(pre_nms_topk_train=3, post_nms_topk_train=4, post_nms_topk_test=4)
BOXES = [[0, 0, 20, 20], [30, 30, 60, 60], [0, 30, 8, 31], [30, 0, 50, 20], [5, 5, 9, 9]]
ANCHORS = Anchors(
    boxes=jnp.asarray([BOXES], jnp.float32),
    ids=jnp.arange(5),
    valid=jnp.asarray([[True, True, True, True, False]]),
    level_sizes=(4, 1),
)
LOGITS = jnp.asarray([[0.1, 0.5, 0.4, 0.2, 9.0]])
IMAGE_SIZE = jnp.asarray([[40, 50]])


def propose(config, logits=LOGITS, deltas=None, train=True):
    deltas = jnp.zeros((1, 5, 4)) if deltas is None else deltas
    return generate_proposals(config, RPNOutput(logits, deltas), ANCHORS, IMAGE_SIZE, train)


def test_the_best_of_each_level_are_clipped_and_ordered():
    proposals = propose(CONFIG)
    assert proposals.valid.tolist() == [[True, True, True, False]]
    assert proposals.boxes[0].tolist() == [
        [30, 30, 50, 40],
        [0, 30, 8, 31],
        [30, 0, 50, 20],
        [0, 0, 0, 0],
    ]


def test_small_proposals_are_dropped():
    proposals = propose(dataclasses.replace(CONFIG, min_size=2.0))
    assert proposals.boxes[0, :2].tolist() == [[30, 30, 50, 40], [30, 0, 50, 20]]
    assert int(proposals.valid.sum()) == 2


def test_no_gradient_flows_through_proposals():
    def total(deltas):
        return propose(CONFIG, deltas=deltas).boxes.sum()

    assert not np.asarray(jax.grad(total)(jnp.full((1, 5, 4), 0.01))).any()


def batch_of(gt_boxes) -> Batch:
    count = len(gt_boxes)
    slots = [[*boxes, [0, 0, 0, 0]] for boxes in gt_boxes]
    valid = [[True] * len(boxes) + [False] for boxes in gt_boxes]
    return Batch(
        images=jnp.zeros((count, 64, 64, 3)),
        image_size=jnp.tile(IMAGE_SIZE, (count, 1)),
        boxes=jnp.asarray(slots, jnp.float32),
        labels=jnp.zeros((count, 2), jnp.int32),
        valid=jnp.asarray(valid),
        index=jnp.arange(count),
    )


def test_only_anchors_inside_the_border_are_trained():
    def trained(border):
        config = dataclasses.replace(CONFIG, allowed_border=border)
        keys = jax.random.split(jax.random.key(0), 1)
        samples = sample_anchors(config, ANCHORS, batch_of([[[0, 0, 20, 20]]]), keys)
        return sorted(samples.anchor[0][samples.valid[0]].tolist())

    # Anchor 1 ends 20 pixels below and 10 right of the image, anchor 3 at its right border.
    assert trained(-1) == [0, 1, 2, 3]
    assert trained(0) == [0, 2]
    assert trained(1) == [0, 2, 3]
    assert trained(20) == [0, 2, 3]
    assert trained(21) == [0, 1, 2, 3]


def test_an_image_without_objects_can_count_an_anchor_more():
    batch = batch_of([[[0, 0, 20, 20]]])
    empty = batch._replace(valid=jnp.zeros_like(batch.valid))

    def count(batch, **fields):
        config = dataclasses.replace(CONFIG, **fields)
        samples = sample_anchors(config, ANCHORS, batch, jax.random.split(jax.random.key(0), 1))
        output = RPNOutput(LOGITS, jnp.zeros((1, 5, 4)))
        terms = rpn_losses(config, output, ANCHORS, samples, batch)
        return float(terms["rpn_class"].count), float(terms["rpn_box"].count)

    assert count(batch) == count(batch, count_empty=True) == count(empty) == (4, 4)
    assert count(empty, count_empty=True) == (5, 5)
