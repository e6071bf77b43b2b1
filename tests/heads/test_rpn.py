"""Proposals of the RPN."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.heads.rpn import Anchors, RPNConfig, RPNOutput, generate_proposals

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
