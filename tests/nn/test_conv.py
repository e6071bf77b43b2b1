"""Convolutions: the definition, their gradients, and the way each platform computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.data.pipeline import space_to_depth
from jaxseg.nn import conv
from jaxseg.nn.conv import Conv, convolve
from tests.oracles import conv as oracle

CASES = [
    # batch, height, width, channels, outputs, kernel, strides, pads, groups
    (2, 5, 7, 3, 4, (1, 1), (1, 1), ((0, 0), (0, 0)), 1),
    (2, 6, 5, 3, 4, (1, 1), (2, 2), ((0, 0), (0, 0)), 1),
    (1, 4, 5, 2, 3, (1, 1), (1, 1), ((1, 0), (0, 2)), 1),
    (2, 9, 5, 3, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), 1),
    (5, 4, 4, 3, 2, (3, 3), (1, 1), ((1, 1), (1, 1)), 1),
    (1, 6, 8, 2, 3, (3, 1), (1, 1), ((2, 0), (0, 1)), 1),
    (1, 7, 6, 2, 3, (2, 2), (1, 1), ((0, 0), (0, 0)), 1),
    (1, 9, 8, 3, 4, (7, 7), (2, 2), ((3, 3), (3, 3)), 1),
    (2, 6, 6, 3, 4, (3, 3), (2, 2), ((1, 1), (1, 1)), 1),
    (1, 5, 6, 4, 6, (3, 3), (1, 1), ((1, 1), (1, 1)), 2),
    (1, 5, 6, 4, 6, (1, 1), (1, 1), ((0, 0), (0, 0)), 2),
]


def make(batch, height, width, channels, outputs, size, groups=1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(*size, channels // groups, outputs)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


@pytest.mark.parametrize("part_cells", [1, 13, 40, 4096])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_definition(case, part_cells, monkeypatch):
    *shape, size, strides, pads, groups = case
    monkeypatch.setattr(conv, "PART_CELLS", part_cells)
    x, kernel = make(*shape, size, groups)

    def ours(x, kernel):
        return convolve(x, kernel, strides, pads, groups)

    def theirs(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=layout, feature_group_count=groups
        )

    expected = oracle.convolve(x, kernel, strides, pads, groups)
    np.testing.assert_allclose(ours(x, kernel), expected, atol=1e-4)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), jnp.float32)
    found = jax.vjp(ours, x, kernel)[1](cotangent)
    for a, b in zip(found, jax.vjp(theirs, x, kernel)[1](cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "size", "pads"),
    [
        (8, (7, 7), ((3, 3), (3, 3))),
        (6, (3, 3), ((1, 1), (1, 1))),
        (6, (3, 3), ((0, 1), (0, 1))),
        (10, (2, 4), ((0, 0), (2, 0))),
        (8, (5, 6), ((2, 2), (1, 2))),
        (8, (3, 1), ((1, 1), (0, 0))),
    ],
)
def test_pairs_of_columns_give_the_same_as_columns(width, size, pads):
    x, kernel = make(2, 9, width, 3, 4, size)
    found = conv._convolve_column_pairs(x, kernel, pads)
    np.testing.assert_allclose(found, oracle.convolve(x, kernel, (2, 2), pads, 1), atol=1e-4)


BLOCK_CASES = [
    ((8, 8), (7, 7), ((3, 3), (3, 3))),
    ((6, 10), (3, 3), ((1, 1), (0, 1))),
    ((10, 6), (4, 2), ((2, 0), (0, 0))),
    ((8, 8), (5, 6), ((2, 2), (1, 2))),
]


@pytest.mark.parametrize(("shape", "size", "pads"), BLOCK_CASES)
def test_blocks_of_pixels_give_the_same_as_pixels(shape, size, pads):
    x, kernel = make(2, *shape, 3, 4, size)
    blocks = jnp.asarray(space_to_depth(np.asarray(x)))
    found = conv.convolve_blocks(blocks, kernel, pads)
    np.testing.assert_allclose(found, oracle.convolve(x, kernel, (2, 2), pads, 1), atol=1e-4)


def test_the_stem_has_the_parameters_and_values_of_a_convolution():
    x, _ = make(2, 8, 12, 3, 4, (7, 7))
    plain = Conv(4, (7, 7), strides=(2, 2), padding=3, use_bias=False)
    variables = plain.init(jax.random.key(0), x)
    stem = conv.StemConv(4, 7)
    for images in (x, jnp.asarray(space_to_depth(np.asarray(x)))):
        jax.tree.map(np.testing.assert_array_equal, variables, stem.init(jax.random.key(0), images))
        found = stem.apply(variables, images)
        np.testing.assert_allclose(found, plain.apply(variables, x), atol=1e-4)


def test_gradients_of_bfloat16_are_summed_in_float32(monkeypatch):
    x, kernel = make(1, 64, 8, 2, 2, (3, 3))
    cotangent = np.random.default_rng(1).normal(size=(1, 64, 8, 2))
    pads = ((1, 1), (1, 1))
    monkeypatch.setattr(conv, "PART_CELLS", 8)  # 64 parts

    def gradient(dtype):
        arrays = (jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
        call = jax.vjp(lambda x, k: convolve(x, k, (1, 1), pads), *arrays)[1]
        return call(jnp.asarray(cotangent, dtype))[1]

    assert gradient(jnp.bfloat16).dtype == jnp.bfloat16
    exact = np.asarray(gradient(jnp.float32))
    error = np.abs(np.asarray(gradient(jnp.bfloat16), np.float32) - exact).max()
    assert error < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize(("size", "products"), [((1, 1), True), ((3, 3), False)])
def test_at_stride_1_only_a_cpu_gets_other_operations_than_xlas(size, products):
    x, kernel = make(1, 8, 8, 2, 2, size)
    pads = ((size[0] // 2,) * 2, (size[1] // 2,) * 2)

    def value_and_gradients(x, kernel):
        result, vjp = jax.vjp(lambda x, k: convolve(x, k, (1, 1), pads), x, kernel)
        return result, vjp(result)

    def program(platform):
        traced = jax.jit(value_and_gradients).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert ("dot_general" in program("cpu")) == products
    for platform in ("tpu", "cuda"):
        assert "dot_general" not in program(platform)
        assert program(platform).count("stablehlo.convolution") == 3


def test_a_tpu_convolves_images_at_stride_2_as_pairs_of_columns():
    x, kernel = make(1, 8, 8, 3, 4, (7, 7))
    stem = jax.jit(lambda x, kernel: convolve(x, kernel, (2, 2), ((3, 3), (3, 3))))
    for platform, shape in (("tpu", "1x8x4x6"), ("cuda", "1x8x8x3"), ("cpu", "1x8x8x3")):
        program = stem.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        (line,) = (line for line in program.splitlines() if "stablehlo.convolution" in line)
        assert f"(tensor<{shape}xf32>" in line


def test_the_layer_has_flaxs_parameters_and_values():
    x, _ = make(2, 5, 6, 3, 4, (3, 3))
    for settings in ({"padding": 1}, {"strides": (2, 2)}, {"padding": "VALID", "use_bias": False}):
        ours, flaxs = Conv(4, (3, 3), **settings), nn.Conv(4, (3, 3), **settings)
        variables = flaxs.init(jax.random.key(0), x)
        assert jax.tree.all(
            jax.tree.map(lambda a, b: (a == b).all(), variables, ours.init(jax.random.key(0), x))
        )
        np.testing.assert_allclose(ours.apply(variables, x), flaxs.apply(variables, x), atol=1e-5)
    with pytest.raises(ValueError, match=r"no dilation or precision: use flax\.linen\.Conv"):
        Conv(4, (3, 3), kernel_dilation=2).init(jax.random.key(0), x)


def test_the_stems_kernel_is_float32_where_jax_has_64_bit():
    stem = conv.StemConv(4, 3)
    with jax.enable_x64(True):
        variables = jax.eval_shape(stem.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), "float32"))
    assert variables["params"]["kernel"].dtype == jnp.float32
