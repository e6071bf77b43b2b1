"""A ResNet's features do not depend on padding, and remat and bfloat16 keep them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.pipeline import space_to_depth
from jaxseg.nn.pixels import PixelConfig, normalize
from jaxseg.nn.resnet import ResNetConfig
from tests.tiny import tiny_config

SIZE = jnp.asarray([[64, 64], [64, 32]])


def images(height=64, width=64):
    pixels = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    pixels[1, :, 32:] = 0
    return jnp.asarray(np.pad(pixels, ((0, 0), (0, height - 64), (0, width - 64), (0, 0))))


def features(config, x, variables=None):
    net = config.build()
    if variables is None:
        variables = jax.jit(net.init, static_argnums=3)(jax.random.key(0), x, SIZE, False)
    return variables, jax.jit(net.apply, static_argnums=3)(variables, x, SIZE, False)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_more_padding_changes_no_feature(norm):
    config = ResNetConfig(depth=18, width=8, norm=norm)
    variables, small = features(config, images())
    _, large = features(config, images(96, 128), variables)
    assert list(small) == [4, 8, 16, 32]
    for stride, x in small.items():
        inside = large[stride][:, : x.shape[1], : x.shape[2]]
        np.testing.assert_allclose(inside, x, atol=1e-4)
        assert not np.asarray(x[1, :, 32 // stride :]).any()
        outside = large[stride].at[:, : x.shape[1], : x.shape[2]].set(0)
        assert not np.asarray(outside).any()


def test_remat_changes_nothing_and_bfloat16_only_rounds():
    config = ResNetConfig(depth=18, width=8, norm="group")
    variables, exact = features(config, images())
    _, remat = features(dataclasses.replace(config, remat=True), images(), variables)
    _, rounded = features(config, images().astype(jnp.bfloat16), variables)
    for stride, x in exact.items():
        np.testing.assert_allclose(remat[stride], x, atol=1e-5)
        assert rounded[stride].dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(rounded[stride], np.float32) - np.asarray(x))
        assert error < 0.05 * np.linalg.norm(x)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_blocks_of_pixels_have_the_features_of_pixels(norm):
    config = ResNetConfig(depth=18, width=8, norm=norm)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    size = jnp.asarray([[64, 64], [61, 33]])  # the border of the second is inside blocks

    def run(variables, images, order):
        x = normalize(PixelConfig(channel_order=order), images, size)
        return config.build().apply(variables, x, size, False)

    variables, _ = features(config, images())
    for order in ("rgb", "bgr"):
        apply = jax.jit(functools.partial(run, order=order))
        expected = apply(variables, pixels)
        found = apply(variables, space_to_depth(pixels))
        for stride, x in expected.items():
            np.testing.assert_allclose(found[stride], x, atol=1e-4 * np.abs(x).max())


def test_frozen_stages_are_in_a_collection_of_their_own():
    config = dataclasses.replace(
        tiny_config(), backbone=ResNetConfig(depth=18, width=8, freeze_at=2)
    )
    init = config.build().init
    variables = jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))
    frozen = {"stem_conv", "stage2_block0", "stage2_block1"}
    assert set(variables["frozen"]["backbone"]) == frozen
    assert not frozen & set(variables["params"]["backbone"])


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_neither_remat_nor_padding_changes_a_gradient(norm):
    config = ResNetConfig(depth=18, width=8, norm=norm)
    variables, _ = features(config, images())

    def gradient(config, x):
        def total(params):
            maps = config.build().apply({**variables, "params": params}, x, SIZE, True)
            return sum((m**2).sum() for m in maps.values())

        return jax.jit(jax.grad(total))(variables["params"])

    expected = gradient(config, images())
    for found in (
        gradient(dataclasses.replace(config, remat=True), images()),
        gradient(config, images(96, 128)),
    ):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
