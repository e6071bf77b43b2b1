import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.oracles.boxes import greedy_nms, iou

nms = jax.jit(ops.nms)
batched_nms = jax.jit(ops.batched_nms)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]),
    spread=st.sampled_from([5, 20, 60]),
    labels=st.integers(1, 3),
)
def test_equals_greedy_nms(seed, threshold, spread, labels):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, spread, (24, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 25, (24, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 8, 24).astype(np.float32) / 8  # many ties
    label = rng.integers(0, labels, 24).astype(np.int32)
    valid = rng.random(24) < 0.8
    threshold = np.float32(threshold)
    keep = batched_nms(*map(jnp.asarray, (boxes, scores, label, threshold, valid)))
    expected = greedy_nms(boxes, scores, label, threshold, valid)
    np.testing.assert_array_equal(keep, expected)


@settings(max_examples=80, deadline=None)
@given(
    boxes=strategies.boxes(10, low=0, high=8, largest=12),
    scores=strategies.quarters(10, -1, 1),
    labels=strategies.integers(10, 0, 2),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    valid=strategies.flags(10),
)
def test_kept_boxes_follow_the_definition(boxes, scores, labels, threshold, valid):
    threshold = np.float32(threshold)
    keep = np.asarray(batched_nms(boxes, scores, labels, threshold, valid))
    np.testing.assert_array_equal(keep, greedy_nms(boxes, scores, labels, threshold, valid))
    assert not (keep & ~valid).any()

    def suppresses(i, j):
        better = (scores[i], -i) > (scores[j], -j)
        return better and labels[i] == labels[j] and iou(boxes[i], boxes[j]) > threshold

    for j in range(10):
        suppressed = any(keep[i] and suppresses(i, j) for i in range(10))
        assert keep[j] == (valid[j] and not suppressed)
    if threshold == 1:
        np.testing.assert_array_equal(keep, valid)
    label_by_label = np.zeros(10, bool)
    for label in range(3):
        label_by_label |= np.asarray(nms(boxes, scores, threshold, valid & (labels == label)))
    np.testing.assert_array_equal(keep, label_by_label)


def test_a_long_chain_of_overlaps():
    # Each box overlaps only its neighbours: greedy keeps every second one.
    x = np.arange(40, dtype=np.float32) * 4
    boxes = jnp.asarray(np.stack([x, 0 * x, x + 10, 0 * x + 10], 1))
    keep = ops.nms(boxes, jnp.linspace(1, 0, 40), 0.4)
    np.testing.assert_array_equal(keep, np.arange(40) % 2 == 0)


def test_no_boxes():
    assert ops.nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5).shape == (0,)


def test_invalid_boxes_do_not_suppress():
    boxes = jnp.asarray([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    keep = ops.nms(boxes, jnp.asarray([0.9, 0.1]), 0.5, jnp.asarray([False, True]))
    assert keep.tolist() == [False, True]


def test_golden(shared):
    """Padded to a few sizes, so that there are few compilations and padding is tested too."""
    meta, golden = load_golden(shared, "nms")
    for case in meta["cases"]:
        boxes, scores, expected = (
            golden[f"{case['key']}__{name}"] for name in ("boxes", "scores", "keep")
        )
        labels = np.zeros(len(boxes), np.int32)
        if case["batched"]:
            names = [f"{case['key']}__{name}" for name in ("idxs", "labels")]
            labels = next(golden[name] for name in names if name in golden).astype(np.int32)
        padding = (400 if len(boxes) <= 400 else 1400) - len(boxes)
        keep = batched_nms(
            jnp.pad(boxes, ((0, padding), (0, 0))),
            jnp.pad(scores, (0, padding), constant_values=2.0),
            jnp.pad(labels, (0, padding)),
            jnp.asarray(case["iou_threshold"], jnp.float32),
            jnp.arange(len(boxes) + padding) < len(boxes),
        )
        np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(expected), err_msg=case["key"])
        if case["batched"]:  # torchvision's other way, class by class
            expected = golden[f"{case['key']}__keep_vanilla"]
            np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(expected))


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_threshold_may_be_traced(threshold):
    boxes = jnp.asarray([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0]])  # IoU 0.4
    keep = jax.jit(ops.nms)(boxes, jnp.asarray([0.9, 0.8]), jnp.asarray(threshold))
    assert keep.tolist() == [True, threshold == 0.5]


def test_vmap_over_images_equals_greedy_nms():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 20, (3, 24, 2, 2)), axis=2).reshape(3, 24, 4).astype(np.float32)
    scores = rng.random((3, 24)).astype(np.float32)
    batch = jax.vmap(lambda b, s: ops.nms(b, s, 0.3))(jnp.asarray(boxes), jnp.asarray(scores))
    for keep, b, s in zip(batch, boxes, scores, strict=True):
        all_valid = np.ones(24, bool)
        expected = greedy_nms(b, s, 0 * all_valid, np.float32(0.3), all_valid)
        np.testing.assert_array_equal(keep, expected)
