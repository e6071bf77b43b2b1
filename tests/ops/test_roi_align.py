import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from tests.goldens import load_golden
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


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_agrees_with_the_loop(aligned, sampling_ratio):
    options = {"output_size": (3, 4), "spatial_scale": 0.25, "sampling_ratio": sampling_ratio}
    pooled = ops.roi_align(jnp.asarray(FEATURES), jnp.asarray(BOXES), aligned=aligned, **options)
    expected = slow_roi_align(FEATURES, BOXES, (3, 4), 0.25, sampling_ratio, aligned)
    np.testing.assert_allclose(pooled, expected, atol=2e-5)


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


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradient_is_the_adjoint(sampling_ratio):
    """RoIAlign is linear in the features: `<pool(x), y> = <x, gradient(y)>` for all x and y."""

    def pool(features):
        return ops.roi_align(
            features,
            jnp.asarray(BOXES),
            output_size=(3, 3),
            spatial_scale=0.25,
            sampling_ratio=sampling_ratio,
        )

    pooled, pullback = jax.vjp(pool, jnp.asarray(FEATURES))
    y = np.random.default_rng(1).normal(size=pooled.shape).astype(np.float32)
    (gradient,) = pullback(jnp.asarray(y))
    np.testing.assert_allclose((pooled * y).sum(), (FEATURES * gradient).sum(), rtol=1e-4)
    elsewhere = np.random.default_rng(2).normal(size=FEATURES.shape).astype(np.float32)
    np.testing.assert_allclose(
        (pool(jnp.asarray(elsewhere)) * y).sum(), (elsewhere * gradient).sum(), rtol=1e-4
    )


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
        canonical_size=32.0,
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
def test_strides_that_are_no_pyramid_are_named(strides):
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
        def pool_and_pull_back(feature, weight, pool=pool, rois=rois):
            pooled, pullback = jax.vjp(lambda f: pool(f, jnp.asarray(rois[:, 1:])), feature)
            return pooled, pullback(weight)[0]

        for image, feature in enumerate(features):
            mine = rois[:, 0] == image
            own_weight = jnp.asarray(weight * mine[:, None, None, None])
            pooled, gradient = pool_and_pull_back(jnp.asarray(feature), own_weight)
            np.testing.assert_allclose(
                pooled[mine], expected[mine], rtol=1e-5, atol=1e-5, err_msg=case["key"]
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
