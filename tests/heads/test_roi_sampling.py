"""RoI sampling, with more candidates than samples."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.heads.roi_sampling import Proposals, candidate_ids, match_proposals, sample_rois
from tests.tiny import make_batch


def sampled(order, slots, seed):
    """The sampled boxes, with the box of the object that each positive is matched with."""
    batch = make_batch([(64, 64)], [5], slots=slots)
    used = np.arange(5)[list(order)]
    for values in (batch.boxes, batch.labels):
        values[0, :5] = values[0, used]
    batch = jax.tree.map(jnp.asarray, batch)
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 40, (1, 30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 24, (1, 30, 2))], axis=2)
    proposals = Proposals(jnp.asarray(boxes, jnp.float32), jnp.ones((1, 30), bool))
    rois, _ = sample_rois(
        proposals,
        batch,
        jax.random.split(jax.random.key(seed), 1),
        batch_size_per_image=8,
        positive_fraction=0.25,
        positive_iou=0.5,
    )
    matched = jnp.where(rois.positive[0][:, None], batch.boxes[0, rois.gt_index[0]], 0)
    return np.asarray(rois.boxes[0]), np.asarray(matched), np.asarray(rois.positive[0])


def test_no_object_has_the_number_of_a_proposal():
    """Without its mark, the hash of a box of zeros is 0."""
    ids = np.asarray(candidate_ids(100, jnp.zeros((1, 4))))
    np.testing.assert_array_equal(ids[:100], np.arange(100))
    assert ids[100] not in range(100)


def test_the_numbers_of_different_objects_differ():
    """Also where boxes share all but one coordinate, or have them in another order."""
    boxes = np.asarray(list(itertools.product([0, 0.5, 7, 10, 64, 333.25], repeat=4)), np.float32)
    ids = np.asarray(candidate_ids(0, jnp.asarray(boxes)))
    assert np.unique(ids).size == 6**4


@pytest.mark.parametrize("seed", range(5))
def test_neither_order_nor_padding_changes_the_sample(seed):
    boxes, matched, positive = sampled(range(5), slots=5, seed=seed)
    assert positive.sum() == 2  # fewer than the five boxes of the objects alone
    for order, slots in (([4, 2, 0, 1, 3], 5), ([1, 0, 4, 3, 2], 5), (range(5), 9)):
        other_boxes, other_matched, _ = sampled(order, slots, seed)
        np.testing.assert_array_equal(other_boxes, boxes)
        np.testing.assert_array_equal(other_matched, matched)


def test_other_keys_sample_other_rois():
    assert len({sampled(range(5), 5, seed)[0].tobytes() for seed in range(5)}) == 5


def test_the_objects_own_boxes_are_sampled():
    own = 0
    for seed in range(5):
        boxes, matched, positive = sampled(range(5), 5, seed)
        own += int((boxes[positive] == matched[positive]).all(axis=1).sum())
    assert own >= 5  # of ten positives; no random proposal equals an object's box


@pytest.mark.parametrize("overrides", [False, True])
def test_low_quality_matches_override_others_if_asked(overrides):
    """Proposal 0 is the best of object 0 (IoU 0.6), but overlaps object 1 more (0.7)."""
    objects = jnp.asarray([[0, 0, 10, 10], [0, 0, 10, 4.2], [0, 0, 10, 50]], jnp.float32)
    boxes = jnp.asarray([[0, 0, 10, 6], [0, 0, 10, 4]], jnp.float32)
    matches = match_proposals(
        Proposals(boxes, jnp.ones(2, bool)),
        objects,
        jnp.ones(3, bool),
        positive_iou=0.5,
        low_quality_overrides=overrides,
    )
    # Object 2 overlaps none by 0.5, so it gets none.
    assert matches.gt_index.tolist() == ([0, 1] if overrides else [1, 1])
    assert matches.positive.tolist() == [True, True]


def test_the_objects_own_boxes_do_not_override_proposals():
    """As in MMDetection, which adds them after the proposals are matched."""
    batch = make_batch([(64, 64)], [2], slots=2)
    objects = jnp.asarray([[[0, 0, 10, 10], [0, 0, 10, 4.2]]], jnp.float32)
    batch = jax.tree.map(jnp.asarray, batch)._replace(boxes=objects)
    boxes = jnp.asarray([[[0, 0, 10, 6], [0, 0, 10, 4]]], jnp.float32)
    rois, _ = sample_rois(
        Proposals(boxes, jnp.ones((1, 2), bool)),
        batch,
        jax.random.split(jax.random.key(0), 1),
        batch_size_per_image=8,
        positive_fraction=0.5,
        positive_iou=0.5,
        low_quality_overrides=True,
    )
    matched = {
        tuple(box): index
        for box, index in zip(rois.boxes[0].tolist(), rois.gt_index[0].tolist(), strict=True)
    }
    assert matched[0, 0, 10, 6] == 0
    assert int(rois.valid.sum()) == 4
