"""RoIAlign on one map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.ops.roi_align_inputs import OFFSET, OUT, boxes_off_the_rim, maps
from tests.oracles import roi_align as oracle
from tests.oracles.roi_align import roi_align as slow_roi_align

FEATURES = np.random.default_rng(0).normal(size=(9, 12, 3)).astype(np.float32)
BOXES = np.asarray(
    [
        [4, 6, 30, 28],
        [-9, -5, 14, 60],  # partly outside
        [200, 200, 240, 260],  # outside
        [8, 8, 8, 8],  # empty
        [20, 10, 20.5, 10.2],  # tiny
        [0, 0, 48, 36],
    ],
    np.float32,
)


def test_padding_beyond_the_extent_is_never_read():
    padded = np.full((16, 20, 3), 1e6, np.float32)
    padded[:9, :12] = FEATURES
    pool = functools.partial(
        ops.roi_align, boxes=jnp.asarray(BOXES), output_size=(7, 7), spatial_scale=0.25
    )
    np.testing.assert_allclose(
        pool(jnp.asarray(padded), extent=(9, 12)), pool(jnp.asarray(FEATURES)), atol=1e-5
    )


def test_no_boxes():
    pooled = ops.roi_align(
        jnp.asarray(FEATURES), jnp.zeros((0, 4)), output_size=(7, 7), spatial_scale=0.25
    )
    assert pooled.shape == (0, 7, 7, 3)


MAP, SCALE = (6, 7, 2), 0.25
OPTIONS = [(ratio, aligned) for ratio in range(4) for aligned in (False, True)]


@functools.partial(jax.jit, static_argnames=("sampling_ratio", "aligned"))
def pool_with_gradients(features, boxes, out_gradient, extent, sampling_ratio, aligned):
    def pool(features, boxes):
        return ops.roi_align(
            features,
            boxes,
            output_size=OUT,
            spatial_scale=SCALE,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            extent=extent,
        )

    pooled, pullback = jax.vjp(pool, features, boxes)
    return pooled, *pullback(out_gradient)


@pytest.mark.parametrize(("sampling_ratio", "aligned"), OPTIONS)
@settings(max_examples=12, deadline=None)
@given(
    features=maps(MAP),
    boxes=boxes_off_the_rim(4),
    out_gradient=maps((4, *OUT, 2)),
    extent=st.tuples(st.integers(1, MAP[0]), st.integers(1, MAP[1])),
)
def test_values_and_gradients_agree_with_the_loops(
    sampling_ratio, aligned, features, boxes, out_gradient, extent
):
    pooled, gradient, box_gradient = pool_with_gradients(
        features, boxes, out_gradient, np.asarray(extent), sampling_ratio, aligned
    )
    rows, columns = extent
    inside = features[:rows, :columns]
    expected = slow_roi_align(inside, boxes, OUT, SCALE, sampling_ratio, aligned)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)
    expected = np.zeros(MAP)
    expected[:rows, :columns] = oracle.roi_align_gradient(
        inside.shape, boxes, out_gradient, SCALE, sampling_ratio, aligned
    )
    np.testing.assert_allclose(gradient, expected, atol=1e-3)
    assert not box_gradient.any()


@pytest.mark.parametrize("aligned", [False, True])
@settings(max_examples=20, deadline=None)
@given(features=maps(MAP), corner=strategies.integers((4, 2), -9, 8))
def test_samples_on_the_border_count(aligned, features, corner):
    """Bins of 2 by 2 cells with their samples exactly on whole cells, -1 and the last included."""
    corner = (corner + (0 if aligned else 0.5)) / SCALE
    boxes = np.concatenate([corner, corner + np.asarray([[8, 4]]) / SCALE], axis=1)
    boxes = boxes.astype(np.float32)
    zeros = np.zeros((4, *OUT, 2), np.float32)
    pooled, *_ = pool_with_gradients(features, boxes, zeros, np.asarray(MAP[:2]), 2, aligned)
    expected = slow_roi_align(features, boxes, OUT, SCALE, 2, aligned)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


@pytest.mark.parametrize(("sampling_ratio", "aligned"), OPTIONS)
@settings(max_examples=12, deadline=None)
@given(
    x=maps(MAP),
    y=maps(MAP),
    boxes=boxes_off_the_rim(4),
    out_gradient=maps((4, *OUT, 2)),
    factor=st.integers(-3, 3),
)
def test_linear_in_the_features_and_its_gradient_is_the_transpose(
    sampling_ratio, aligned, x, y, boxes, out_gradient, factor
):
    def pool(features):
        full = np.asarray(MAP[:2])
        return pool_with_gradients(features, boxes, out_gradient, full, sampling_ratio, aligned)

    of_x, gradient, _ = map(np.asarray, pool(x))
    of_y, gradient_at_y, _ = map(np.asarray, pool(y))
    of_sum, *_ = pool(factor * x + y)
    np.testing.assert_allclose(of_sum, factor * of_x + of_y, atol=1e-4)
    np.testing.assert_array_equal(gradient, gradient_at_y)
    for features, pooled in ((x, of_x), (y, of_y)):
        np.testing.assert_allclose(
            (pooled * out_gradient).sum(), (features * gradient).sum(), rtol=1e-4, atol=1e-2
        )


@pytest.mark.parametrize(("sampling_ratio", "aligned"), OPTIONS)
@settings(max_examples=12, deadline=None)
@given(boxes=strategies.boxes(4, smallest=4, largest=10, low=2, high=10), side=st.integers(0, 3))
def test_a_constant_map_is_constant_inside_and_zero_outside(sampling_ratio, aligned, boxes, side):
    """The map of 6 by 7 cells reaches from 0 to 24 by 28 pixels."""
    ones, full = np.ones(MAP, np.float32), np.asarray(MAP[:2])
    out_gradient = np.ones((4, *OUT, 2), np.float32)
    pooled, *_ = pool_with_gradients(ones, boxes, out_gradient, full, sampling_ratio, aligned)
    np.testing.assert_allclose(pooled, 1, rtol=1e-5)
    away = np.zeros(4, np.float32)
    away[[side % 2, side % 2 + 2]] = 40 if side < 2 else -40
    pooled, gradient, _ = pool_with_gradients(
        ones, boxes + away, out_gradient, full, sampling_ratio, aligned
    )
    assert not pooled.any()
    assert not gradient.any()


@functools.partial(jax.jit, static_argnames=("sampling_ratio", "aligned"))
def pool_each(features, map_index, boxes, sampling_ratio, aligned):
    return ops.indexed_roi_align(
        features,
        map_index,
        boxes,
        output_size=OUT,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(0, False), (2, True)])
@settings(max_examples=15, deadline=None)
@given(
    features=maps((3, *MAP)),
    map_index=strategies.integers(4, 0, 2),
    boxes=strategies.boxes(4, largest=9, low=-3, high=8).map(lambda boxes: boxes + OFFSET),
)
def test_each_box_reads_its_own_map(sampling_ratio, aligned, features, map_index, boxes):
    pooled = pool_each(features, map_index, boxes, sampling_ratio, aligned)
    for i, box, actual in zip(map_index, boxes, pooled, strict=True):
        expected = slow_roi_align(features[i], box[None], OUT, 1.0, sampling_ratio, aligned)
        np.testing.assert_allclose(actual, expected[0], atol=1e-4)


def test_adaptive_samples_of_a_whole_number_of_cells_per_bin():
    features = np.random.default_rng(0).normal(size=(60, 60, 1)).astype(np.float32)
    sides = np.arange(7, 57, 7)
    boxes = np.asarray([[2, 2, 2 + side, 2 + side] for side in sides], np.float32)
    options = {"output_size": (7, 7), "spatial_scale": 1.0, "sampling_ratio": 0, "aligned": True}
    pooled = jax.jit(functools.partial(ops.roi_align, **options))(features, boxes)
    expected = slow_roi_align(features, boxes, (7, 7), 1.0, 0, True)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


def test_a_map_without_any_image_gives_zeros():
    pooled = ops.roi_align(
        jnp.asarray(FEATURES),
        jnp.asarray(BOXES),
        output_size=(2, 2),
        spatial_scale=0.25,
        extent=(0, 0),
    )
    assert not pooled.any()


def test_golden_with_gradient(shared):
    meta, golden = load_golden(shared, "roi_align")
    for case in meta["cases"]:
        features = golden[f"{case['input']}__feat"].transpose(0, 2, 3, 1)
        rois = golden[f"{case['input']}__rois"]
        weight = golden[case["grad_out"]].transpose(0, 2, 3, 1)
        pool = functools.partial(
            ops.roi_align,
            output_size=tuple(case["output_size"]),
            spatial_scale=case["spatial_scale"],
            sampling_ratio=max(case["sampling_ratio"], 0),
            aligned=case["aligned"],
        )
        expected = golden[f"{case['key']}__out"].transpose(0, 2, 3, 1)
        gradients = golden[f"{case['key']}__grad_feat"].transpose(0, 2, 3, 1)

        @jax.jit
        def pool_with_gradients(feature, boxes, weight, pool=pool):
            pooled, pullback = jax.vjp(lambda f: pool(f, boxes), feature)
            return pooled, pullback(weight)[0]

        for image, feature in enumerate(features):
            in_image = rois[:, 0] == image
            image_weight = jnp.asarray(weight * in_image[:, None, None, None])
            pooled, gradient = pool_with_gradients(
                jnp.asarray(feature), jnp.asarray(rois[:, 1:]), image_weight
            )
            np.testing.assert_allclose(
                pooled[in_image], expected[in_image], rtol=1e-5, atol=1e-5, err_msg=case["key"]
            )
            np.testing.assert_allclose(gradient, gradients[image], rtol=1e-4, atol=1e-4)
