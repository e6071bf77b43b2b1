import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.oracles import boxes as oracle
from tests.oracles.boxes import iou

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (2.0, 3.0, 4.0, 5.0)]

encode = jax.jit(ops.encode_boxes, static_argnames="weights")
decode = jax.jit(ops.decode_boxes, static_argnames="weights")
clip = jax.jit(ops.clip_boxes)
iou_and_swapped = jax.jit(lambda a, b: (ops.box_iou(a, b), ops.box_iou(b, a)))


@jax.jit
def areas(a, b):
    larger = ops.min_size_mask(a, 0.0), ops.min_size_mask(a, 2.0)
    return ops.box_area(a), ops.intersection_area(a, b), larger


def test_iou_of_empty_boxes_is_zero_with_finite_gradient():
    empty = jnp.asarray([[3.0, 3.0, 3.0, 3.0]])
    assert ops.box_iou(empty, empty)[0, 0] == 0
    gradient = jax.grad(lambda a: ops.box_iou(a, empty).sum())(empty)
    assert np.isfinite(gradient).all()


def test_degenerate_boxes_give_finite_codes():
    boxes = jnp.zeros((2, 4))
    anchors = jnp.asarray([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 10.0, 10.0]])
    assert np.isfinite(ops.encode_boxes(boxes, anchors)).all()
    assert np.isfinite(ops.decode_boxes(jnp.full((2, 4), 1e6), anchors)).all()


@pytest.mark.parametrize("case", ["w0", "w1"])
def test_box_code_golden(shared, case):
    meta, golden = load_golden(shared, "box_coder")
    weights = next(tuple(c["weights"]) for c in meta["cases"] if c["key"] == case)
    proposals = jnp.asarray(golden[f"{case}__proposals"])
    encoded = ops.encode_boxes(jnp.asarray(golden[f"{case}__gt"]), proposals, weights)
    np.testing.assert_allclose(encoded, golden[f"{case}__encoded"], rtol=1e-5, atol=1e-5)
    deltas = jnp.asarray(golden[f"{case}__deltas"]).reshape(-1, 3, 4)
    decoded = ops.decode_boxes(deltas, jnp.broadcast_to(proposals[:, None], deltas.shape), weights)
    np.testing.assert_allclose(decoded, golden[f"{case}__decoded"], rtol=1e-5, atol=1e-3)
    clipped = ops.clip_boxes(decoded, (200, 300))
    np.testing.assert_allclose(clipped, golden[f"{case}__decoded_clipped"], rtol=1e-5, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(a=strategies.boxes(6), b=strategies.boxes(5))
def test_areas_and_overlaps_agree_with_the_definitions(a, b):
    area, intersection, larger = areas(a, b)
    np.testing.assert_array_equal(area, [oracle.area(x) for x in a])
    np.testing.assert_array_equal(intersection, [[oracle.intersection(x, y) for y in b] for x in a])
    expected = [[oracle.min_size_mask(x, side) for x in a] for side in (0.0, 2.0)]
    np.testing.assert_array_equal(larger, expected)
    overlap, swapped = iou_and_swapped(a, b)
    expected = [[iou(x, y) for y in b] for x in a.astype(float)]
    np.testing.assert_allclose(overlap, expected, rtol=1e-6)
    np.testing.assert_array_equal(overlap, swapped.T)
    itself, _ = iou_and_swapped(a, a)
    np.testing.assert_array_equal(np.diagonal(itself), (np.asarray(area) > 0).astype(float))


@settings(max_examples=60, deadline=None)
@given(a=strategies.integers((6, 4), -(2**20), 2**20), b=strategies.integers((5, 4), 0, 2**20))
def test_iou_is_symmetric_and_in_0_to_1_even_if_areas_are_rounded(a, b):
    a, b = (np.sort(x.reshape(-1, 2, 2), axis=1).reshape(-1, 4) / 1024 for x in (a, b))
    overlap, swapped = iou_and_swapped(a, b)
    assert np.all((np.asarray(overlap) >= 0) & (np.asarray(overlap) <= 1))
    np.testing.assert_allclose(overlap, swapped.T, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    boxes=strategies.boxes(6),
    height=st.integers(0, 50),
    width=st.integers(0, 50),
)
def test_clipping_agrees_with_the_definition_and_is_idempotent(boxes, height, width):
    clipped = clip(boxes, np.asarray([height, width]))
    np.testing.assert_array_equal(clipped, [oracle.clip(box, height, width) for box in boxes])
    np.testing.assert_array_equal(clip(clipped, np.asarray([height, width])), clipped)


@pytest.mark.parametrize("weights", WEIGHTS)
@settings(max_examples=30, deadline=None)
@given(
    boxes=strategies.boxes(6, smallest=1),
    anchors=strategies.boxes(6, smallest=1),
    delta=strategies.floats((6, 4), -60, 60),
)
def test_box_code_agrees_with_the_definition(weights, boxes, anchors, delta):
    code = encode(boxes, anchors, weights)
    expected = [oracle.encode(*pair, weights) for pair in zip(boxes, anchors, strict=True)]
    np.testing.assert_allclose(code, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(code, anchors, weights), boxes, atol=1e-3)
    expected = [oracle.decode(*pair, weights) for pair in zip(delta, anchors, strict=True)]
    np.testing.assert_allclose(decode(delta, anchors, weights), expected, rtol=1e-5, atol=5e-3)
    np.testing.assert_allclose(decode(np.zeros_like(delta), anchors, weights), anchors, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(boxes=strategies.boxes(6), anchors=strategies.boxes(6))
def test_codes_of_boxes_without_area_are_finite(boxes, anchors):
    code = encode(boxes, anchors, WEIGHTS[1])
    assert np.isfinite(code).all()
    assert np.isfinite(decode(code, anchors, WEIGHTS[1])).all()


@pytest.mark.parametrize("case", ["w0", "w1"])
def test_round_trip_and_small_boxes_golden(shared, case):
    meta, golden = load_golden(shared, "box_coder")
    options = next(c for c in meta["cases"] if c["key"] == case)
    weights, proposals = tuple(options["weights"]), golden[f"{case}__proposals"]
    decoded = decode(encode(golden[f"{case}__gt"], proposals, weights), proposals, weights)
    np.testing.assert_allclose(decoded, golden[f"{case}__roundtrip"], rtol=1e-5, atol=1e-3)
    clipped = jnp.asarray(golden[f"{case}__decoded_clipped"].reshape(-1, 4))
    larger = ops.min_size_mask(clipped, options["remove_small_min"])
    np.testing.assert_array_equal(np.flatnonzero(larger), golden[f"{case}__keep_small"])


@pytest.mark.parametrize("case", ["delta0", "delta1", "delta2"])
def test_mmdetection_box_code_golden(shared, case):
    """MMDetection bounds `dw` and `dh` below too, so its deltas are bounded here."""
    meta, golden = load_golden(shared, "mm_ops")
    weights = tuple(1 / std for std in meta[case]["stds"])
    rois, deltas = golden[f"{case}__rois"], golden[f"{case}__deltas"].copy()
    encoded = encode(golden[f"{case}__gt"], rois, weights)
    np.testing.assert_allclose(encoded, golden[f"{case}__encoded"], rtol=1e-5, atol=1e-5)
    least = np.log(meta[case]["wh_ratio_clip"]) * np.asarray(weights[2:])
    deltas[:, 2:] = np.maximum(deltas[:, 2:], least)
    decoded = decode(deltas, rois, weights)
    if meta[case]["clip_border"]:
        decoded = ops.clip_boxes(decoded, tuple(meta[case]["max_shape"]))
    np.testing.assert_allclose(decoded, golden[f"{case}__decoded"], rtol=1e-5, atol=1e-3)


def test_iou_golden(shared):
    _, golden = load_golden(shared, "losses")
    overlap, _ = iou_and_swapped(golden["pair__boxes1"], golden["pair__boxes2"])
    np.testing.assert_allclose(overlap, golden["pair__box_iou"], rtol=1e-5, atol=1e-7)
    _, golden = load_golden(shared, "matcher")
    overlap, _ = iou_and_swapped(golden["c0__gt"], golden["c0__anchors"])
    np.testing.assert_allclose(overlap, golden["c0__iou"], rtol=1e-5, atol=1e-7)
