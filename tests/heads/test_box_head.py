"""The selection of detections, box by box."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.heads.box_head import BoxHeadConfig, regression_loss, select_detections
from jaxseg.heads.roi_sampling import Proposals

CONFIG = BoxHeadConfig(
    bbox_reg_weights=(1.0, 1.0, 1.0, 1.0), detections_per_image=6, score_threshold=0.1
)
IMAGE_SIZE = jnp.asarray([40, 50])  # height, width


def select(config, boxes, scores, valid=None):
    """Select among proposals that are refined by nothing; the valid detections, best first."""
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    valid = jnp.ones(len(boxes), bool) if valid is None else jnp.asarray(valid)
    deltas = jnp.zeros((len(boxes), scores.shape[1], 4))
    found = select_detections(config, scores, deltas, Proposals(boxes, valid), IMAGE_SIZE)
    used = np.asarray(found[3])
    assert not used[used.sum() :].any()
    for values in found:
        assert not np.asarray(values)[~used].any()
    return [np.asarray(values)[used].tolist() for values in found[:3]]


def test_boxes_are_clipped_to_the_image():
    boxes, _, _ = select(CONFIG, [[-5, -6, 20, 30], [30, 20, 70, 60]], [[0.9], [0.8]])
    assert boxes == [[0, 0, 20, 30], [30, 20, 50, 40]]


@pytest.mark.parametrize(("min_size", "count"), [(0.0, 3), (2.5, 2), (5.0, 1)])
def test_small_boxes_are_dropped(min_size, count):
    config = dataclasses.replace(CONFIG, min_size=min_size)
    given = [[0, 0, 20, 2], [5, 10, 8, 30], [20, 20, 40, 35]]
    boxes, _, _ = select(config, given, [[0.9], [0.8], [0.7]])
    assert boxes == [given[i] for i in range(3)][3 - count :]


def test_nms_is_per_class_and_scores_at_the_threshold_are_dropped():
    config = dataclasses.replace(CONFIG, nms_threshold=0.5)
    given = [[0, 0, 20, 20], [0, 0, 20, 19], [22, 0, 42, 20]]
    scores = [[0.9, 0.3], [0.8, 0.4], [0.1, 0.05]]
    boxes, found, labels = select(config, given, scores)
    np.testing.assert_allclose(found, [0.9, 0.4])
    assert (boxes, labels) == ([given[0], given[1]], [0, 1])


def test_class_agnostic_nms_lets_the_best_class_win():
    config = dataclasses.replace(CONFIG, nms_threshold=0.5, cls_agnostic_nms=True)
    given = [[0, 0, 20, 20], [0, 0, 20, 19], [22, 0, 42, 20]]
    scores = [[0.9, 0.3], [0.8, 0.4], [0.05, 0.2]]
    boxes, found, labels = select(config, given, scores)
    np.testing.assert_allclose(found, [0.9, 0.2])
    assert (boxes, labels) == ([given[0], given[2]], [0, 1])


def test_padding_is_never_detected():
    boxes, _, _ = select(CONFIG, [[0, 0, 9, 9], [20, 20, 30, 30]], [[0.5], [0.9]], [True, False])
    assert boxes == [[0, 0, 9, 9]]


def test_the_box_loss_is_the_configured_one():
    roi, gt = jnp.asarray([[0.0, 0, 10, 10]]), jnp.asarray([[1.0, 0, 11, 10]])
    deltas = jnp.zeros((1, 4))
    for beta, expected in ((0.0, 0.1), (1.0, 0.5 * 0.1**2)):
        config = dataclasses.replace(CONFIG, smooth_l1_beta=beta)
        np.testing.assert_allclose(regression_loss(config, deltas, roi, gt), [expected], rtol=1e-5)
    giou = dataclasses.replace(CONFIG, box_loss="giou")
    iou = ops.box_iou(roi, gt)[0, 0]  # two boxes of one height side by side: no area besides
    np.testing.assert_allclose(regression_loss(giou, deltas, roi, gt), [1 - iou], rtol=1e-5)
