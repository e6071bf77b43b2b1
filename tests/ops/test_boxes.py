import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from tests.goldens import load_golden
from tests.oracles.boxes import iou


def random_boxes(rng, count, size=50.0):
    corners = rng.uniform(0, size, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def test_iou_agrees_with_the_loop():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    a[0] = a[0, [0, 1, 0, 1]]  # empty
    expected = [[iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(ops.box_iou(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-6)


def test_iou_of_empty_boxes_is_zero_with_finite_gradient():
    empty = jnp.asarray([[3.0, 3.0, 3.0, 3.0]])
    assert ops.box_iou(empty, empty)[0, 0] == 0
    gradient = jax.grad(lambda a: ops.box_iou(a, empty).sum())(empty)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_undoes_encode(weights):
    rng = np.random.default_rng(1)
    grow = np.asarray([0, 0, 1, 1], np.float32)
    boxes = jnp.asarray(random_boxes(rng, 20) + grow)
    anchors = jnp.asarray(random_boxes(rng, 20) + grow)
    deltas = ops.encode_boxes(boxes, anchors, weights)
    np.testing.assert_allclose(ops.decode_boxes(deltas, anchors, weights), boxes, atol=1e-3)


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


def test_anchors_golden(shared):
    meta, golden = load_golden(shared, "anchors")
    case = meta["cases"][0]
    boxes = [
        ops.grid_anchors(ops.cell_anchors(sizes, ratios, rounded=True), tuple(grid), strides[0])
        for sizes, ratios, grid, strides in zip(
            case["sizes"],
            case["aspect_ratios"],
            case["feature_sizes"],
            case["strides"],
            strict=True,
        )
    ]
    np.testing.assert_allclose(np.concatenate(boxes), golden["c0__anchors"])


def test_unrounded_anchors_golden(shared):
    meta, golden = load_golden(shared, "mm_ops")
    options = meta["anchor0"]
    for level, (stride, grid) in enumerate(
        zip(options["strides"], options["feature_sizes"], strict=True)
    ):
        cell = ops.cell_anchors((options["scales"][0] * stride,), options["ratios"], rounded=False)
        boxes = ops.grid_anchors(cell, tuple(grid), stride)
        np.testing.assert_allclose(boxes, golden[f"anchor0__l{level}"], rtol=1e-6, atol=1e-4)


def test_unrounded_anchors_have_the_asked_area_and_shape():
    for box, ratio in zip(
        ops.cell_anchors((32.0,), (0.5, 1.0, 2.0), rounded=False), (0.5, 1.0, 2.0), strict=True
    ):
        width, height = box[2] - box[0], box[3] - box[1]
        np.testing.assert_allclose([width * height, height / width], [1024, ratio], rtol=1e-5)
