import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.oracles import points as oracle

crop_points = jax.jit(ops.crop_points)
uncertain_cells = jax.jit(ops.uncertain_cells, static_argnames="num_points")

SMALL, LARGE = (6, 7, 2), (16, 20, 2)
"""Of two maps that are sampled by a product and by gathering."""


@jax.jit
def sample_with_gradients(features, points, out_gradient):
    values, pullback = jax.vjp(ops.point_sample, features, points)
    return values, *pullback(out_gradient)


def points_around(count):
    """Points on and around a map, on cells' centres and between; no coordinate is rounded."""
    return strategies.integers((count, 2), -12, 44).map(lambda k: k.astype(np.float32) / 32)


def maps(shape):
    return strategies.integers(shape, -8, 8).map(lambda k: k.astype(np.float32))


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_values_and_gradients_agree_with_the_loops(shape, data):
    features, points = data.draw(maps(shape)), data.draw(points_around(5))
    out_gradient = data.draw(maps((5, 2)))
    actual = sample_with_gradients(features, points, out_gradient)
    expected = oracle.point_sample(features, points, out_gradient)
    for ours, slow in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, slow, atol=1e-3)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_padding_with_zeros_changes_no_value(shape, data):
    features, boxes = data.draw(maps(shape)), data.draw(strategies.boxes(3))
    points = data.draw(strategies.floats((3, 4, 2), -0.5, 1.5))
    sample = functools.partial(ops.roi_point_sample, spatial_scale=0.25)
    padded = np.pad(features, ((0, 9), (0, 13), (0, 0)))
    arguments = jnp.asarray(boxes), jnp.asarray(points)
    np.testing.assert_allclose(
        sample(jnp.asarray(padded), *arguments),
        sample(jnp.asarray(features), *arguments),
        atol=1e-4,
    )


def test_points_far_outside_are_zero():
    far = jnp.asarray([[1e30, 0.5], [-1e30, 0.5], [0.5, jnp.inf], [0.5, -jnp.inf], [3e9, -3e9]])
    for shape in (SMALL, LARGE):
        assert not ops.point_sample(jnp.ones(shape), far).any()


@settings(max_examples=15, deadline=None)
@given(
    masks=strategies.flags((3, 5, 4)),
    frames=strategies.boxes(3, smallest=-2, largest=12, low=0, high=8),
    points=strategies.quarters((4, 6, 2), -2, 22),
    gt_index=strategies.integers(4, 0, 2),
)
def test_crops_at_points_agree_with_the_loops(masks, frames, points, gt_index):
    # Off the frame's border, where rounding would decide between inside and outside.
    points = points + np.float32(2**-5)
    values = crop_points(*map(jnp.asarray, (masks, frames, points, gt_index)))
    for r, n in enumerate(gt_index):
        for p, (x, y) in enumerate(points[r].tolist()):
            expected = oracle.crop_value(masks[n], frames[n], x, y)
            np.testing.assert_allclose(values[r, p], expected, atol=1e-4)


def test_without_objects_targets_are_zero():
    points, index = jnp.full((2, 3, 2), 0.5), jnp.zeros(2, jnp.int32)
    crops = ops.crop_points(jnp.zeros((0, 4, 4), bool), jnp.zeros((0, 4)), points, index)
    whole = ops.indexed_point_sample(jnp.zeros((0, 4, 4, 1), bool), index, points)
    assert crops.shape == (2, 3)
    assert whole.shape == (2, 3, 1)
    assert not crops.any()
    assert not whole.any()


@settings(max_examples=15, deadline=None)
@given(
    boxes=strategies.boxes(4, smallest=1, largest=30),
    points=strategies.quarters((4, 6, 2), -1, 2),
)
def test_points_of_rois_and_of_the_image_are_inverse(boxes, points):
    boxes, points = jnp.asarray(boxes), jnp.asarray(points)
    back = ops.points_in_boxes(boxes, ops.points_in_image(boxes, points))
    np.testing.assert_allclose(back, points, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(logits=maps((4, 5)), count=st.sampled_from([1, 7, 20, 30]))
def test_the_most_uncertain_cells_are_chosen(logits, count):
    index, points = uncertain_cells(jnp.asarray(logits), count)
    assert len(set(index.tolist())) == len(index) == min(count, logits.size)
    expected = np.sort(np.abs(logits).ravel())[: len(index)]
    np.testing.assert_array_equal(np.sort(np.abs(logits.ravel()[index])), expected)
    at_centers = ops.point_sample(jnp.asarray(logits)[..., None], points)[:, 0]
    np.testing.assert_allclose(at_centers, logits.ravel()[index], atol=1e-4)


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "goldens" / "models" / "ops_later.npz") as file:
        arrays = {name: file[name] for name in file.files if name.startswith(("pr__", "prt__"))}
        return json.loads(str(file["meta"])), arrays


def test_simple_roi_align_is_that_of_mmcv(golden):
    _, arrays = golden
    rois = arrays["pr__rois"]
    grid = ops.grid_points((14, 14))
    for n, roi in enumerate(rois):
        features = jnp.asarray(arrays["pr__feat"][int(roi[0])].transpose(1, 2, 0))
        pooled = ops.roi_point_sample(
            features, jnp.asarray(roi[None, 1:]), grid[None], spatial_scale=0.25
        )
        expected = arrays["pr__simple_roi_align"][n]  # [C, 14, 14]
        actual = np.asarray(pooled)[0].T.reshape(expected.shape)
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_point_maps_are_those_of_mmcv(golden):
    _, arrays = golden
    np.testing.assert_allclose(ops.grid_points((3, 4)), arrays["pr__grid"][0], atol=1e-6)
    boxes, points = jnp.asarray(arrays["pr__rois"][:, 1:]), jnp.asarray(arrays["pr__rel_points"])
    in_image = np.asarray(ops.points_in_image(boxes, points))
    height, width = arrays["pr__feat"].shape[2:]
    at_stride_4 = in_image / (4 * np.asarray([width, height], np.float32))
    np.testing.assert_allclose(at_stride_4, arrays["pr__img_points"], atol=1e-5)
    of_the_mask = in_image / np.asarray([80, 64], np.float32)
    np.testing.assert_allclose(of_the_mask, arrays["pr__img_points_mask"], atol=1e-5)


def as_set(points):
    return sorted(map(tuple, np.asarray(points).round(5).tolist()))


def test_uncertain_points_are_those_of_mmdetection(golden):
    _, arrays = golden
    count = arrays["pr__train_points"].shape[1] - arrays["pr__rand1"].shape[1]
    for n, label in enumerate(arrays["pr__labels"]):
        logits = jnp.asarray(arrays["pr__logits"][n, label])
        chosen = ops.uncertain_points(logits, jnp.asarray(arrays["pr__rand0"][n]), count)
        expected = arrays["pr__train_points"][n]
        assert as_set(chosen) == as_set(expected[:count])
        np.testing.assert_allclose(expected[count:], arrays["pr__rand1"][n], atol=1e-6)


@pytest.mark.parametrize("case", range(3))
def test_uncertain_cells_are_those_of_mmdetection(golden, case):
    _, arrays = golden
    expected_index, coords = arrays[f"prt__index{case}"], arrays[f"prt__coords{case}"]
    count = expected_index.shape[1]
    for n, logits in enumerate(arrays[f"prt__logits{case}"]):
        label = arrays["pr__labels"][n]
        index, points = uncertain_cells(jnp.asarray(logits[label]), count)
        assert set(index.tolist()) == set(expected_index[n].tolist())
        assert as_set(points) == as_set(coords[n])
