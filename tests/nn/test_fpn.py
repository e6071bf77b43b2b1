"""The feature pyramid's extra levels against MMDetection's, and their independence of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.nn.backbone import BackboneConfig
from jaxseg.nn.fpn import FPN
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo.engine import CONV, import_state, layer_entries
from jaxseg.zoo.resnet import torchvision_resnet
from tests.goldens import difference, load_model, nchw


class Net(nn.Module):
    """A ResNet-18 and a pyramid that begins at C3, as FCOS and YOLACT have it."""

    fpn: FPN

    def setup(self):
        self.backbone = ResNetConfig(depth=18).build()

    def __call__(self, images, padded_size):
        maps = self.backbone(images, padded_size, False)
        return self.fpn({s: x for s, x in maps.items() if s > 4}, padded_size, False)


def names():
    yield from torchvision_resnet(ResNetConfig(depth=18), "backbone.")
    for i in range(3):
        yield from layer_entries(f"neck.lateral_convs.{i}.conv", ("fpn", f"lateral{i + 3}"), CONV)
        yield from layer_entries(f"neck.fpn_convs.{i}.conv", ("fpn", f"output{i + 3}"), CONV)
    for i in (3, 4):
        yield from layer_entries(f"neck.fpn_convs.{i}.conv", ("fpn", f"extra{i + 3}"), CONV)


@pytest.mark.parametrize(
    ("name", "extra", "relu", "levels"),
    # YOLACT upsamples bilinearly, so its P3 and P4 are others.
    [("fcos", "on_output", True, (3, 4, 5, 6, 7)), ("yolact", "on_input", False, (5, 6, 7))],
)
def test_extra_levels_are_those_of_mmdetection(shared, name, extra, relu, levels):
    state, _, golden = load_model(shared, name, folder="models")
    fpn = FPN(32, num_extra_levels=2, extra_convs=extra, relu_before_extra_convs=relu)
    images = jnp.asarray(golden["input_batch"].transpose(0, 2, 3, 1)[:1])  # fills the batch
    size = jnp.asarray([images.shape[1:3]])
    net, table = Net(fpn), list(names())
    shapes = jax.eval_shape(net.init, jax.random.key(0), images, size)
    known = {entry.name for entry in table}
    variables = import_state(state, table, shapes, lambda n: n not in known)
    pyramid = jax.jit(net.apply)(variables, images, size)
    assert list(pyramid) == [8, 16, 32, 64, 128]
    for level in levels:
        expected = golden[f"eval__P_l{level - 3}"][:1]
        assert difference(nchw(pyramid[2**level]), expected) < 1e-4


@pytest.mark.parametrize("extra", [None, "on_input", "on_output"])
def test_more_padding_changes_no_level(extra):
    fpn = FPN(4, num_extra_levels=2, extra_convs=extra)
    rng = np.random.default_rng(0)
    size = jnp.asarray([[96, 64]])
    small, large = {}, {}
    for stride in (8, 16, 32):
        height, width = 96 // stride, 64 // stride
        x = rng.normal(size=(1, height, width, 3)).astype(np.float32)
        small[stride] = jnp.asarray(x)
        padding = ((0, 0), (0, 160 // stride - height), (0, 128 // stride - width), (0, 0))
        large[stride] = jnp.asarray(np.pad(x, padding))
    variables = fpn.init(jax.random.key(0), small, size, False)
    alone, padded = (fpn.apply(variables, maps, size, False) for maps in (small, large))
    assert list(alone) == [8, 16, 32, 64, 128]
    for stride, x in alone.items():
        inside = padded[stride][:, : x.shape[1], : x.shape[2]]
        np.testing.assert_allclose(inside, x, atol=1e-5)
        assert float(jnp.abs(padded[stride]).sum()) == pytest.approx(
            float(jnp.abs(inside).sum()), rel=1e-5
        )


def test_resnet_is_a_backbone():
    assert isinstance(ResNetConfig(), BackboneConfig)
