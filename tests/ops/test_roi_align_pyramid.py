"""RoIAlign on the levels of a feature pyramid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from jaxseg.ops import roi_taps, roi_tiles
from tests import strategies
from tests.goldens import load_golden
from tests.ops.roi_align_inputs import OUT, boxes_off_the_rim, maps
from tests.oracles import roi_align as oracle
from tests.oracles.roi_align import roi_align as slow_roi_align

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


@functools.partial(jax.jit, static_argnames=("canonical_box_size", "canonical_level"))
def assign_levels(boxes, canonical_box_size, canonical_level):
    return ops.assign_levels(boxes, STRIDES, canonical_box_size, canonical_level)


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
    levels = ops.assign_levels(boxes, sorted(pyramid), 224.0, 4)
    np.testing.assert_array_equal(levels, golden["extract__levels"])


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
            levels = ops.assign_levels(boxes, sorted(pyramid), 224.0, 4)
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


METHODS = ("taps", "tiles")


@functools.partial(jax.jit, static_argnames=("method", "options"))
def pool_images(pyramid, boxes, extents, gradient, method, options):
    def one_image(pyramid, boxes, extent):
        return ops.multilevel_roi_align(
            pyramid,
            boxes,
            output_size=gradient.shape[2:4],
            canonical_box_size=32.0,
            canonical_level=3,
            extent={4: extent, 8: -(-extent // 2)},
            method=method,
            **dict(options),
        )

    pooled, pull = jax.vjp(lambda p: jax.vmap(one_image)(p, boxes, extents), pyramid)
    return pooled, pull(gradient)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"aligned": True}, {"sampling_ratio": 0}], ids=str)
def test_tiles_give_the_same_as_taps(options, dtype, monkeypatch):
    monkeypatch.setattr(roi_tiles, "CHUNK", 3)
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-40, 200, (2, 9, 4)).astype(np.float32)
    boxes[..., 2:] = boxes[..., :2] + rng.exponential(40, (2, 9, 2))
    boxes[0, :3] = [[0, 0, 160, 160], [-9, 30, 400, 40], [500, 500, 600, 600]]
    boxes[1, :2] = [[50, 50, 50, 50], [8, 150, 12, 152]]
    extents = jnp.asarray([[42, 60], [40, 37]])
    maps = {4: rng.normal(size=(2, 42, 60, 3)), 8: rng.normal(size=(2, 21, 30, 3))}
    pyramid = {stride: jnp.asarray(x, dtype) for stride, x in maps.items()}
    gradient = jnp.asarray(rng.normal(size=(2, 9, 3, 2, 3)), jnp.float32)
    taps, tiles = (
        pool_images(pyramid, boxes, extents, gradient, method, tuple(options.items()))
        for method in METHODS
    )
    assert tiles[0].dtype == jnp.float32
    np.testing.assert_allclose(tiles[0], taps[0], atol=1e-5)
    for stride, x in tiles[1].items():
        assert x.dtype == dtype
        error = np.abs(np.asarray(x, np.float32) - np.asarray(taps[1][stride], np.float32))
        assert error.max() <= (1e-5 if dtype == "float32" else 2.0**-8) * np.abs(x).max()
        assert np.asarray(x).any()


def test_blocks_of_a_last_roi_beside_its_map_are_in_bounds():
    boxes = jnp.asarray([[0.0, 0.0, 4.0, 4.0], [90.0, 0.0, 99.0, 4.0]])
    maps, level = (jnp.zeros((4, 5, 1)),), jnp.zeros(2, jnp.int32)
    taps = roi_tiles._make_roi_taps(
        maps, level, *roi_taps.make_taps(boxes, (1, 1), 2, False, rows=4, columns=5)
    )
    chunk = roi_tiles._make_chunk(jnp.asarray(0), 2, roi_tiles._make_grids(taps), taps)
    assert 0 <= chunk.blocks.min() <= chunk.blocks.max() < 4
    assert not chunk.weights[1].any()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_boxes_in_bfloat16_are_pooled_on_every_platform(platform):
    features, boxes = jnp.zeros((8, 8, 128)), jnp.zeros((1, 4), jnp.bfloat16)

    @jax.jit
    def gradient(features):
        def summed(features):
            pooled = ops.multilevel_roi_align({4: features}, boxes, output_size=(1, 1))
            assert pooled.dtype == jnp.bfloat16
            return pooled.astype(jnp.float32).sum()

        return jax.grad(summed)(features)

    assert (
        gradient.trace(features).lower(lowering_platforms=(platform,)).out_info.dtype == "float32"
    )


def test_tiles_read_the_map_of_their_roi_alone():
    finite, other = jnp.ones((2, 12, 20, 2)), jnp.full((2, 6, 10, 2), jnp.nan)
    pyramid = {4: finite.at[1].set(jnp.nan), 8: other}
    boxes = jnp.asarray([[[60.0, 30.0, 80.0, 48.0], [0.0, 44.0, 4.0, 48.0]]] * 2)
    extents, gradient = jnp.asarray([[12, 20]] * 2), jnp.zeros((2, 2, 2, 2, 2))
    pooled, _ = pool_images(pyramid, boxes, extents, gradient, "tiles", ())
    assert np.isfinite(pooled[0]).all()
    assert np.isnan(pooled[1]).all()


def test_a_tpu_pools_many_channels_by_tiles_and_few_by_taps_one_image_after_the_other():
    boxes, extents = jnp.zeros((2, 5, 4)), jnp.full((2, 2), 8)

    def program(channels, platform):
        pyramid = {4: jnp.zeros((2, 8, 8, channels)), 8: jnp.zeros((2, 4, 4, channels))}
        gradient = jnp.zeros((2, 5, 2, 2, channels))
        traced = pool_images.trace(pyramid, boxes, extents, gradient, "auto", ())
        return traced.lower(lowering_platforms=(platform,)).as_text()

    of_tpu = program(128, "tpu")
    assert "dot_general" in of_tpu
    assert "dot_general" not in program(8, "tpu")
    assert "while" in program(8, "tpu")
    for platform in ("cpu", "cuda"):
        assert "dot_general" not in program(128, platform)
