import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.goldens import load_golden
from tests.oracles import roi_align as oracle
from tests.oracles.roi_align import roi_align as slow_roi_align

# The package's attribute of that name is the function.
module = importlib.import_module("jaxseg.ops.roi_align")

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(9, 12, 3)).astype(np.float32)
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


MAP, OUT, SCALE = (6, 7, 2), (2, 4), 0.25
OPTIONS = [(ratio, aligned) for ratio in range(4) for aligned in (False, True)]
OFFSET = np.float32(2**-8)
"""Added to boxes in quarters of a pixel, it keeps samples off the map's border, where RoIAlign is
discontinuous, and sizes off those where the number of adaptive samples changes: there, rounding
would decide the result."""


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


def maps(shape):
    return strategies.integers(shape, -8, 8).map(lambda k: k.astype(np.float32))


def boxes_off_the_rim(count):
    return strategies.boxes(count, largest=40, low=-16, high=40).map(lambda boxes: boxes + OFFSET)


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


STRIDES = [4, 8, 16]


@functools.partial(jax.jit, static_argnames=("sampling_ratio", "aligned"))
def pool_levels(pyramid, boxes, sampling_ratio, aligned):
    pooled = ops.multilevel_roi_align(
        pyramid,
        boxes,
        output_size=OUT,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        canonical_box_size=16.0,
        canonical_level=3,
    )
    return pooled, ops.assign_levels(boxes, STRIDES, 16.0, 3)


@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(2, False), (0, True)])
@settings(max_examples=15, deadline=None)
@given(
    pyramid=st.fixed_dictionaries({4: maps((8, 9, 1)), 8: maps((4, 5, 1)), 16: maps((2, 3, 1))}),
    boxes=boxes_off_the_rim(5),
)
def test_levels_and_their_pooled_features_agree_with_the_loop(
    sampling_ratio, aligned, pyramid, boxes
):
    pooled, levels = pool_levels(pyramid, boxes, sampling_ratio, aligned)
    for box, level, actual in zip(boxes, levels, pooled, strict=True):
        assert level == oracle.assign_level(box, STRIDES, 16.0, 3)
        stride = STRIDES[level]
        expected = slow_roi_align(
            pyramid[stride], box[None], OUT, 1 / stride, sampling_ratio, aligned
        )
        np.testing.assert_allclose(actual, expected[0], atol=1e-4)


@pytest.mark.parametrize(
    ("canonical_box_size", "canonical_level"), [(16.0, 3), (224.0, 4), (8.0, 2)]
)
@settings(max_examples=40, deadline=None)
@given(boxes=strategies.boxes(8, largest=70), exact=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_a_box_of_exactly_a_levels_size_is_on_that_level(
    canonical_box_size, canonical_level, boxes, exact
):
    boxes[0] = np.asarray([3, 5, 3 + 4 * exact, 5 + exact])
    boxes[1] = np.asarray([0, 0, 7 * exact, 7 * exact])
    levels = assign_levels(boxes, canonical_box_size, canonical_level)
    expected = [
        oracle.assign_level(box, STRIDES, canonical_box_size, canonical_level) for box in boxes
    ]
    np.testing.assert_array_equal(levels, expected)


@pytest.mark.parametrize(("side", "largest"), [(112, 500), (224, 1000), (448, 1000)])
def test_a_box_of_a_levels_size_but_for_the_rounding_of_its_corners_is_on_that_level(side, largest):
    """Far from the origin, corners in tenths of a pixel are up to 6e-5 off."""
    corner = np.random.default_rng(0).integers(0, 10 * largest, (1000, 2)) / 10
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    rounded = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    assert (rounded.prod(1) < side**2).any()
    levels = ops.assign_levels(jnp.asarray(boxes), [4, 8, 16, 32], 224.0, 4)
    np.testing.assert_array_equal(levels, [112, 224, 448].index(side) + 1)


@functools.partial(jax.jit, static_argnames=("canonical_box_size", "canonical_level"))
def assign_levels(boxes, canonical_box_size, canonical_level):
    return ops.assign_levels(boxes, STRIDES, canonical_box_size, canonical_level)


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


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_multilevel_does_not_depend_on_padding_or_batch(sampling_ratio):
    rng = np.random.default_rng(1)
    sizes = [{4: (12, 16), 8: (6, 8)}, {4: (20, 16), 8: (10, 8)}]
    images = [
        {s: rng.normal(size=(*hw, 2)).astype(np.float32) for s, hw in size.items()}
        for size in sizes
    ]
    boxes = np.asarray([[1, 2, 9, 12], [0, 0, 60, 44], [30, 20, 64, 80]], np.float32)
    pool = functools.partial(
        ops.multilevel_roi_align,
        boxes=jnp.asarray(boxes),
        output_size=(2, 3),
        sampling_ratio=sampling_ratio,
        canonical_box_size=32.0,
        canonical_level=3,
    )

    def padded(image, stride):
        shape = image[stride].shape
        out = np.full((96 // stride, 80 // stride, 2), 1e6, np.float32)
        out[: shape[0], : shape[1]] = image[stride]
        return out

    batch = {s: jnp.stack([padded(image, s) for image in images]) for s in (4, 8)}
    extent = {s: jnp.asarray([size[s] for size in sizes]) for s in (4, 8)}
    pooled = jax.vmap(lambda p, e: pool(p, extent=e))(batch, extent)
    for image, actual in zip(images, pooled, strict=True):
        expected = pool({s: jnp.asarray(x) for s, x in image.items()})
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_map_without_any_image_gives_zeros():
    pooled = ops.roi_align(
        jnp.asarray(FEATURES),
        jnp.asarray(BOXES),
        output_size=(2, 2),
        spatial_scale=0.25,
        extent=(0, 0),
    )
    assert not pooled.any()


@pytest.mark.parametrize("strides", [(), (4, 16), (6, 12)])
def test_strides_that_are_not_consecutive_powers_of_two_are_an_error(strides):
    pyramid = {stride: jnp.zeros((4, 4, 1)) for stride in strides}
    with pytest.raises(ValueError, match=r"strides .* consecutive powers of two"):
        ops.multilevel_roi_align(pyramid, jnp.zeros((1, 4)), output_size=(2, 2))


def test_adaptive_golden_of_a_pyramid(shared):
    """MMDetection's extractor: aligned, as many samples as a bin has cells."""
    _, golden = load_golden(shared, "mm_ops")
    pyramid = {
        4 * 2**level: jnp.asarray(golden[f"extract__feat{level}"][0].transpose(1, 2, 0))
        for level in range(4)
    }
    boxes = jnp.asarray(golden["extract__rois"][:, 1:])
    pooled = ops.multilevel_roi_align(
        pyramid, boxes, output_size=(7, 7), sampling_ratio=0, aligned=True
    )
    expected = golden["extract__out"].transpose(0, 2, 3, 1)
    # Features reach 4: this is 1e-5 of their scale.
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=4e-5)
    levels = module.assign_levels(boxes, sorted(pyramid), 224.0, 4)
    np.testing.assert_array_equal(levels, golden["extract__levels"])


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


def test_multilevel_golden(shared):
    meta, golden = load_golden(shared, "multiscale_roi_align")
    first = len(golden["boxes0"])
    for case in meta["cases"]:
        size = case["output_size"]
        expected = golden[case["key"]].transpose(0, 2, 3, 1)
        for image, part in enumerate((slice(0, first), slice(first, None))):
            pyramid = {
                4 * 2**level: jnp.asarray(golden[f"feat_{level}"][image].transpose(1, 2, 0))
                for level in range(4)
            }
            boxes = jnp.asarray(golden[f"boxes{image}"])
            pooled = ops.multilevel_roi_align(pyramid, boxes, output_size=(size, size))
            # Features reach 4: this is 5e-6 of their scale.
            np.testing.assert_allclose(pooled, expected[part], rtol=1e-5, atol=2e-5)
            levels = module.assign_levels(boxes, sorted(pyramid), 224.0, 4)
            np.testing.assert_array_equal(levels, golden["levels"][part])


def test_bfloat16_maps_are_pooled_and_summed_in_float32():
    rng = np.random.default_rng(0)
    maps = {4: rng.normal(size=(16, 20, 3)), 8: rng.normal(size=(8, 10, 3))}
    pyramid = {stride: jnp.asarray(x, jnp.bfloat16) for stride, x in maps.items()}
    exact = {stride: x.astype(jnp.float32) for stride, x in pyramid.items()}
    boxes = jnp.asarray([[3.0, 5.0, 20.0, 30.0], [0.0, 0.0, 80.0, 60.0]])

    def pool(pyramid):
        return ops.multilevel_roi_align(
            pyramid, boxes, output_size=(7, 7), canonical_box_size=32.0, canonical_level=3
        )

    pooled, vjp = jax.vjp(pool, pyramid)
    expected, vjp_of_float32 = jax.vjp(pool, exact)
    assert pooled.dtype == jnp.float32
    np.testing.assert_array_equal(pooled, expected)
    cotangent = jnp.cos(expected)
    for stride, gradient in vjp(cotangent)[0].items():
        of_float32 = vjp_of_float32(cotangent)[0][stride]
        np.testing.assert_array_equal(gradient, of_float32.astype(jnp.bfloat16))


def test_one_image_after_the_other_gives_the_same_as_all_at_once():
    boxes = jnp.asarray(RNG.uniform(0, 90, (2, 5, 4)), jnp.float32)
    extents = jnp.asarray([[18, 24], [12, 20]])
    pyramid = {4: RNG.normal(size=(2, 18, 24, 3)), 8: RNG.normal(size=(2, 9, 12, 3))}
    pyramid = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), pyramid)
    gradient = jnp.asarray(RNG.normal(size=(2, 5, 2, 2, 3)), jnp.float32)

    def pool(pyramid, batching):
        def one_image(pyramid, boxes, extent):
            return ops.multilevel_roi_align(
                pyramid,
                boxes,
                output_size=(2, 2),
                sampling_ratio=1,
                canonical_box_size=32.0,
                canonical_level=3,
                extent={4: extent, 8: -(-extent // 2)},
                batching=batching,
            )

        return jax.vmap(one_image)(pyramid, boxes, extents)

    @functools.partial(jax.jit, static_argnames="batching")
    def both(pyramid, batching):
        pooled, pull = jax.vjp(lambda pyramid: pool(pyramid, batching), pyramid)
        return pooled, pull(gradient)[0]

    for a, b in zip(*(jax.tree.leaves(both(pyramid, x)) for x in ("map", "vmap")), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.asarray(a).any()
