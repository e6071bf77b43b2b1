import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.oracles.matching import match as slow_match

IOU = jnp.asarray([[0.8, 0.1], [0.4, 0.2], [0.1, 0.25], [0.0, 0.25], [0.0, 0.0]])

match = jax.jit(ops.match, static_argnames=("high", "low", "min_pos_iou", "low_quality_overrides"))


def run(iou=IOU, valid=(True, True), min_pos_iou=0.0, anchor_valid=None):
    return ops.match(
        iou,
        jnp.asarray(valid),
        high=0.7,
        low=0.3,
        min_pos_iou=min_pos_iou,
        anchor_valid=anchor_valid,
    )


def test_thresholds_and_low_quality_matches():
    matches = run()
    assert matches.positive.tolist() == [True, False, True, True, False]
    assert matches.negative.tolist() == [False, False, False, False, True]
    assert matches.gt_index[:4].tolist() == [0, 0, 1, 1]
    assert run(min_pos_iou=None).positive.tolist() == [True, False, False, False, False]


def test_padded_objects_match_nothing():
    matches = run(valid=(True, False))
    assert matches.positive.tolist() == [True, False, False, False, False]
    without_objects = run(valid=(False, False))
    assert not without_objects.positive.any()
    assert without_objects.negative.all()


def test_matching_without_object_slots():
    matches = run(iou=jnp.zeros((3, 0)), valid=np.zeros(0, bool))
    assert not matches.positive.any()
    assert matches.negative.all()


def test_invalid_anchors_neither_match_nor_compete():
    matches = run(anchor_valid=jnp.asarray([False, True, True, True, True]))
    assert matches.positive.tolist() == [False, True, True, True, False]
    assert not matches.negative[0]


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3"])
def test_matcher_golden(shared, case):
    meta, golden = load_golden(shared, "matcher")
    options = next(c for c in meta["cases"] if c["key"] == case)
    check_golden(
        golden[f"{case}__iou"],
        golden[f"{case}__matched"],
        high=options["high"],
        low=options["low"],
        min_pos_iou=0.0 if options["allow_low_quality_matches"] else None,
    )


@pytest.mark.parametrize(("case", "min_pos_iou"), [("lq0", None), ("lq1", 0.0)])
def test_matcher_golden_with_an_object_that_overlaps_nothing(shared, case, min_pos_iou):
    _, golden = load_golden(shared, "matcher")
    expected = golden[f"synth__matched_{case}"]
    check_golden(golden["synth__iou"], expected, high=0.7, low=0.3, min_pos_iou=min_pos_iou)


@pytest.mark.parametrize("case", ["assign0", "assign1"])
def test_mmdetection_assigner_golden(shared, case):
    """Its low-quality matches need a least IoU and override the box with the highest IoU."""
    meta, golden = load_golden(shared, "mm_ops")
    options, expected = meta[case], golden[f"{case}__gt_inds"] - 1
    iou = ops.box_iou(*(jnp.asarray(golden[f"{case}__{name}"]) for name in ("gt", "priors")))
    check_golden(
        np.asarray(iou),
        np.where(expected == -2, -3, expected),
        high=options["pos_iou_thr"],
        low=options["neg_iou_thr"],
        min_pos_iou=options["min_pos_iou"] if options["match_low_quality"] else None,
        low_quality_overrides=True,
    )


def test_low_quality_overrides_match_the_last_box_that_an_anchor_is_best_for():
    iou = jnp.asarray([[0.6, 0.5], [0.2, 0.1]])
    options = {"high": 0.7, "low": 0.3, "min_pos_iou": 0.3}
    valid = jnp.asarray([True, True])
    assert ops.match(iou, valid, **options).gt_index.tolist() == [0, 0]
    overridden = ops.match(iou, valid, **options, low_quality_overrides=True)
    assert overridden.gt_index.tolist() == [1, 0]
    assert overridden.positive.tolist() == [True, False]
    below_min_pos_iou = ops.match(
        iou, valid, high=0.7, low=0.3, min_pos_iou=0.55, low_quality_overrides=True
    )
    assert below_min_pos_iou.gt_index.tolist() == [0, 0]


def check_golden(iou, expected, **options):
    iou = jnp.asarray(iou.T)
    matches = ops.match(iou, jnp.ones(iou.shape[1], bool), **options)
    np.testing.assert_array_equal(matches.positive, expected >= 0)
    np.testing.assert_array_equal(matches.negative, expected == -1)
    positive = expected >= 0
    np.testing.assert_array_equal(np.asarray(matches.gt_index)[positive], expected[positive])


def sample(positive, negative, size=8, ids=None):
    positive, negative = jnp.asarray(positive), jnp.asarray(negative)
    ids = jnp.arange(len(positive)) if ids is None else ids
    return ops.sample_balanced(
        ops.random_priority(jax.random.key(3), ids),
        positive,
        negative,
        size=size,
        positive_fraction=0.25,
    )


def test_sampling_counts_and_membership():
    rng = np.random.default_rng(0)
    for positives, negatives in [(0, 0), (1, 20), (20, 1), (20, 20), (3, 3), (0, 30), (30, 0)]:
        kind = rng.permutation([1] * positives + [2] * negatives + [0] * 5)
        samples = sample(kind == 1, kind == 2)
        expected_positive = min(2, positives)
        expected = expected_positive + min(8 - expected_positive, negatives)
        assert int(samples.positive.sum()) == expected_positive
        assert int(samples.valid.sum()) == expected
        picked = np.asarray(samples.indices)[np.asarray(samples.valid)]
        assert len(set(picked.tolist())) == expected
        np.testing.assert_array_equal(
            kind[picked], [1] * expected_positive + [2] * (expected - expected_positive)
        )


def test_sampling_with_a_positive_fraction_that_rounds_to_zero():
    samples = ops.sample_balanced(
        jnp.linspace(0, 0.9, 5),
        jnp.asarray([True, True, False, False, False]),
        jnp.asarray([False, False, True, True, False]),
        size=3,
        positive_fraction=0.25,
    )
    assert samples.indices.tolist() == [3, 2, 0]
    assert samples.valid.tolist() == [True, True, False]
    assert not samples.positive.any()


def test_sampling_does_not_depend_on_padding_or_order():
    positive, negative = np.arange(12) % 3 == 0, np.arange(12) % 3 == 1
    samples = sample(positive, negative)
    padded = sample(np.pad(positive, (0, 9)), np.pad(negative, (0, 9)))
    np.testing.assert_array_equal(samples.indices, padded.indices)
    order = np.random.default_rng(0).permutation(12)
    shuffled = sample(positive[order], negative[order], ids=jnp.asarray(order))
    np.testing.assert_array_equal(
        order[shuffled.indices][shuffled.valid], samples.indices[samples.valid]
    )


def test_priorities_are_uniform():
    values = np.asarray(ops.random_priority(jax.random.key(0), jnp.arange(4000)))
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.03
    assert len(np.unique(values)) > 3990


@pytest.mark.parametrize(
    ("high", "low", "min_pos_iou", "low_quality_overrides"),
    [
        (0.75, 0.25, None, False),
        (0.75, 0.25, 0.0, False),
        (0.75, 0.25, 0.375, False),
        (0.75, 0.25, 0.375, True),
        (0.5, 0.5, 0.0, True),
    ],
)
@settings(max_examples=40, deadline=None)
@given(
    eighths=strategies.integers((9, 4), 0, 8),
    gt_valid=strategies.flags(4),
    anchor_valid=strategies.flags(9),
)
def test_matching_agrees_with_the_loop(
    high, low, min_pos_iou, low_quality_overrides, eighths, gt_valid, anchor_valid
):
    iou = (eighths / 8).astype(np.float32)
    options = {
        "high": high,
        "low": low,
        "min_pos_iou": min_pos_iou,
        "low_quality_overrides": low_quality_overrides,
    }
    matches = match(iou, gt_valid, anchor_valid=anchor_valid, **options)
    gt_index, positive, negative = slow_match(iou, gt_valid, anchor_valid, **options)
    np.testing.assert_array_equal(matches.positive, positive)
    np.testing.assert_array_equal(matches.negative, negative)
    np.testing.assert_array_equal(np.asarray(matches.gt_index)[positive], gt_index[positive])
