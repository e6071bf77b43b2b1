"""Matrix NMS, points NMS and SOLO's grid targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.oracles.solo import (
    centre_of_mass,
    slow_grid_targets,
    slow_matrix_nms,
    slow_points_nms,
)

matrix_nms = jax.jit(ops.matrix_nms, static_argnames=("kernel", "sigma"))
GRIDS, RANGES = (8, 5), ((1.0, 24.0), (16.0, 64.0))


def unpack(packed, shape):
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape)


@pytest.mark.parametrize("case", range(5))
def test_matrix_nms_is_that_of_mmdetection(shared, case):
    meta, golden = load_golden(shared, "solo_ops")
    settings = {"sigma": 2.0, "filter_thr": -1.0, "nms_pre": 60, "max_num": 60}
    settings |= meta["matrix_nms"][case]
    scores, labels = golden["mnms__scores"], golden["mnms__labels"].astype(np.int32)
    best = np.argsort(-scores, kind="stable")[: settings["nms_pre"]]
    valid = np.isin(np.arange(len(scores)), best)
    decayed = np.asarray(
        matrix_nms(
            golden["mnms__masks"],
            labels,
            scores,
            kernel=settings["kernel"],
            sigma=settings["sigma"],
            valid=valid,
        )
    )
    kept = best[decayed[best] >= settings["filter_thr"]]
    kept = kept[np.argsort(-decayed[kept], kind="stable")][: settings["max_num"]]
    np.testing.assert_allclose(decayed[kept], golden[f"mnms__scores_out{case}"], rtol=1e-5)
    nonzero = decayed[kept] > 0  # torch sorts those that decayed to 0 in any order
    np.testing.assert_array_equal(kept[nonzero], golden[f"mnms__keep{case}"][nonzero])
    np.testing.assert_array_equal(labels[kept][nonzero], golden[f"mnms__labels_out{case}"][nonzero])
    assert set(kept) == set(golden[f"mnms__keep{case}"])


def test_points_nms_is_that_of_mmdetection(shared):
    _, golden = load_golden(shared, "solo_ops")
    scores = golden["pnms__in"].transpose(0, 2, 3, 1)
    kept = jax.vmap(ops.points_nms)(scores)
    np.testing.assert_array_equal(kept.transpose(0, 3, 1, 2), golden["pnms__out"])


@pytest.mark.parametrize("key", ["r500", "r501", "r502", "mini0", "mini1", "mini2"])
def test_grid_targets_are_those_of_mmdetection(shared, key):
    meta, golden = load_golden(shared, "solo_ops")
    case, key = meta[f"tgt_{key}"], f"tgt_{key}"
    masks = unpack(golden[f"{key}__masks"], (case["n"], *case["image"]))
    nonempty = masks.any((1, 2))  # MMDetection ignores objects with an empty mask
    centers = np.stack([centre_of_mass(mask) if mask.any() else (0, 0) for mask in masks])
    # Recorded as (y, x).
    np.testing.assert_allclose(
        centers[nonempty, ::-1], golden[f"{key}__center"][nonempty], rtol=1e-6
    )
    boxes = golden[f"{key}__boxes"]
    targets = ops.grid_targets(
        jnp.asarray(boxes),
        jnp.asarray(golden[f"{key}__gt_labels"].astype(np.int32)),
        jnp.asarray(centers, jnp.float32),
        jnp.asarray(nonempty),
        tuple(case["image"]),
        num_grids=case["num_grids"],
        scale_ranges=[tuple(map(float, r)) for r in case["scale_ranges"]],
        pos_scale=0.2,
        max_positives=128,
    )
    assert int(targets.dropped) == 0
    first = 0
    for level, grid in enumerate(case["num_grids"]):
        cells = slice(first, first + grid * grid)
        labels = np.where(targets.positive[cells], targets.label[cells], case["num_classes"])
        np.testing.assert_array_equal(labels.reshape(grid, grid), golden[f"{key}__labels_l{level}"])
        in_level = targets.valid & (targets.cell >= first) & (targets.cell < first + grid * grid)
        kept_pairs = sorted(
            zip(targets.cell[in_level] - first, targets.gt_index[in_level], strict=True)
        )
        index = golden[f"{key}__pos_index_l{level}"]
        assert [cell for cell, _ in kept_pairs] == sorted(index.tolist())
        shape = (len(index), case["feat"][0], case["feat"][1])
        expected = unpack(golden[f"{key}__mask_targets_l{level}"], shape)
        small = masks.reshape(case["n"], shape[1], 4, shape[2], 4)[:, :, 1:3, :, 1:3]
        small = small.sum((2, 4)) >= 2  # bilinear at a quarter of the size, rounded
        recorded = (mask.tobytes() for mask in expected.astype(bool))
        by_cell = sorted(zip(index.tolist(), recorded, strict=True))
        assert by_cell == sorted((int(c), small[g].tobytes()) for c, g in kept_pairs)
        first += grid * grid


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@settings(max_examples=30, deadline=None)
@given(
    masks=strategies.flags((6, 3, 4)),
    labels=strategies.integers(6, 0, 1),
    scores=strategies.floats((6,), 0.0, 1.0),
    valid=strategies.flags((6,)),
)
def test_matrix_nms_agrees_with_the_loop(kernel, masks, labels, scores, valid):
    decayed = np.asarray(matrix_nms(masks, labels, scores, kernel=kernel, valid=valid))
    expected = slow_matrix_nms(masks, labels, scores, valid, kernel, 2.0)
    np.testing.assert_allclose(decayed, expected, atol=1e-5)
    order = np.random.default_rng(0).permutation(6)
    if len(set(scores.tolist())) == 6:
        shuffled = matrix_nms(
            masks[order], labels[order], scores[order], kernel=kernel, valid=valid[order]
        )
        np.testing.assert_allclose(shuffled, decayed[order], atol=1e-6)


def test_matrix_nms_without_masks():
    decayed = ops.matrix_nms(jnp.zeros((0, 4, 4)), jnp.zeros(0, int), jnp.zeros(0))
    assert decayed.shape == (0,)


@settings(max_examples=20, deadline=None)
@given(scores=strategies.floats((4, 4, 2), 0.0, 1.0))
def test_points_nms_agrees_with_the_loop(scores):
    np.testing.assert_array_equal(ops.points_nms(jnp.asarray(scores)), slow_points_nms(scores))


@jax.jit
def small_targets(boxes, labels, centers, valid):
    return ops.grid_targets(
        boxes,
        labels,
        centers,
        valid,
        (48, 64),
        num_grids=GRIDS,
        scale_ranges=RANGES,
        pos_scale=0.7,
        max_positives=20,
    )


@settings(max_examples=50, deadline=None)
@given(
    boxes=strategies.boxes(4, smallest=1, largest=40, low=0, high=20),
    labels=strategies.integers(4, 0, 5),
    shift=st.integers(-3, 3),
    valid=strategies.flags((4,)),
)
def test_grid_targets_agree_with_the_loop(boxes, labels, shift, valid):
    centers = np.clip((boxes[:, :2] + boxes[:, 2:]) / 2 + shift + 0.13, 0, [63, 47])
    centers = centers.astype(np.float32)
    targets = small_targets(boxes, labels, centers, valid)
    positive, label, pairs = slow_grid_targets(
        boxes, labels, centers, valid, (48, 64), GRIDS, RANGES, 0.7
    )
    np.testing.assert_array_equal(targets.positive, positive)
    np.testing.assert_array_equal(targets.label, label)
    kept = (np.asarray(x)[targets.valid].tolist() for x in (targets.cell, targets.gt_index))
    kept_pairs = set(zip(*kept, strict=True))
    assert kept_pairs <= set(pairs)
    assert len(kept_pairs) == min(len(pairs), 20)
    assert int(targets.dropped) == len(pairs) - len(kept_pairs)


def test_beyond_max_positives_the_cells_at_the_centres_stay():
    boxes = jnp.asarray([[4.0, 4.0, 24.0, 24.0], [30.0, 10.0, 50.0, 40.0]])
    centers = jnp.asarray([[14.0, 14.0], [40.0, 25.0]])
    labels, valid = jnp.asarray([1, 2]), jnp.ones(2, bool)
    few = ops.grid_targets(
        boxes, labels, centers, valid, (48, 64), num_grids=(8,), scale_ranges=((1.0, 64.0),),
        pos_scale=0.9, max_positives=2,
    )  # fmt: skip
    assert sorted(few.gt_index.tolist()) == [0, 1]
    assert sorted(few.cell.tolist()) == [2 * 8 + 1, 4 * 8 + 5]
    assert int(few.dropped) > 0
    assert int(few.positive.sum()) == int(few.dropped) + 2
