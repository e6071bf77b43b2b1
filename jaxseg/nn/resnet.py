"""ResNet (He et al. 2015, arXiv 1512.03385) and ResNeXt (Xie et al. 2016, arXiv 1611.05431)
backbones.

Terms:
    stem        7x7 convolution with stride 2 and 3x3 max-pooling with stride 2
    stage       the blocks of one stride; stages 2 to 5 give the maps C2 to C5
    basic       block of two 3x3 convolutions (ResNet-18, 34)
    bottleneck  block of 1x1, 3x3, 1x1 convolutions, four times as wide at its ends
                (ResNet-50, 101)
"""

import dataclasses
import functools
from typing import Literal

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxseg.nn.activation import relu
from jaxseg.nn.backbone import FeatureMaps
from jaxseg.nn.conv import Conv, StemConv
from jaxseg.nn.norm import NormKind, conv_and_norm, make_norm
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.types import padded_shape

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Number of blocks of stages 2 to 5, by depth."""
BOTTLENECK_DEPTHS = (50, 101)

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Initial kernels of torchvision's ResNets (`fan_out`); Flax's own `he_normal` has `fan_in`."""


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Settings of a ResNet. `width` is the stem's number of channels, 64 in the paper."""

    depth: Literal[18, 34, 50, 101] = 50
    width: int = 64
    groups: int = 1
    """Groups of the bottlenecks' 3x3 convolutions: 32 in ResNeXt (Xie et al. 2016)."""
    width_per_group: int = 64
    """Channels of each of these groups in stage 2, at a `width` of 64: 8 in ResNeXt-101-32x8d."""
    norm: NormKind = "frozen"
    norm_epsilon: float = 1e-5
    stride_in_1x1: bool = False
    """Stride in the bottlenecks' first 1x1 (the paper, MSRA's weights) and not in the 3x3."""
    freeze_at: int = 0
    """Last stage that is not trained: 0 trains all, 1 freezes the stem, 2 stage 2 as well."""
    remat: bool = False
    """Recompute the activations inside a block for its gradient instead of keeping them: less
    memory for a third more of the backbone's time (Chen et al. 2016, arXiv 1604.06174)."""

    def build(self) -> nn.Module:
        """Return the layers."""
        return ResNet(self)

    def is_frozen(self, layer: str) -> bool:
        """Return whether the layer of this name (`stem_conv`, `stage3_block0`) is not trained."""
        part = layer.partition("_")[0]
        stage = 1 if part == "stem" else int(part.removeprefix("stage"))
        return stage <= self.freeze_at


def conv_layer(
    features: int, size: int, stride: int = 1, groups: int = 1, *, dtype: DTypeLike, name: str
) -> functools.partial[nn.Module]:
    """Return a convolution without bias, padded by `size // 2` on every side at any stride.

    Call the result in a module's compact method to make the layer.
    """
    pad = size // 2
    return functools.partial(
        Conv,
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_normal,
        name=name,
    )


class Block(nn.Module):
    """A residual block, basic or bottleneck; input and output are zero in the padding."""

    channels: int
    stride: int
    config: ResNetConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], mask_in: Bool[Array, "B h w 1"],
        mask: Bool[Array, "B u v 1"], train: bool,
    ) -> Float[Array, "B u v D"]:  # fmt: skip
        config = self.config

        def layer(
            x: Array,
            features: int,
            size: int,
            stride: int,
            mask: Array,
            number: int,
            groups: int = 1,
        ) -> Array:
            conv = conv_layer(features, size, stride, groups, dtype=x.dtype, name=f"conv{number}")
            norm = make_norm(config.norm, config.norm_epsilon, name=f"norm{number}")
            return conv_and_norm(conv, norm, x, mask, train)

        if config.depth in BOTTLENECK_DEPTHS:
            out_channels = 4 * self.channels
            inner = self.channels * config.groups * config.width_per_group // 64
            first, second = (self.stride, 1) if config.stride_in_1x1 else (1, self.stride)
            mask_mid = mask if config.stride_in_1x1 else mask_in
            y = relu(layer(x, inner, 1, first, mask_mid, 1), mask_mid)
            y = relu(layer(y, inner, 3, second, mask, 2, config.groups))
            y = layer(y, out_channels, 1, 1, mask, 3)
        else:
            out_channels = self.channels
            y = relu(layer(x, self.channels, 3, self.stride, mask, 1), mask)
            y = layer(y, self.channels, 3, 1, mask, 2)
        if x.shape[-1] != out_channels or self.stride != 1:
            conv = conv_layer(out_channels, 1, self.stride, dtype=x.dtype, name="shortcut_conv")
            norm = make_norm(config.norm, config.norm_epsilon, name="shortcut_norm")
            x = conv_and_norm(conv, norm, x, mask, train)
        return relu(x + y, mask)


class ResNet(nn.Module):
    """Compute `{4: C2, 8: C3, 16: C4, 32: C5}` of images; H and W are multiples of 32.

    The images are pixels or blocks of 2x2 pixels (`jaxseg.types.Batch.images`).
    """

    config: ResNetConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, "B _ _ _"], padded_size: Int[Array, "B 2"], train: bool
    ) -> FeatureMaps:
        config = self.config
        height, width = padded_shape(images)

        def mask_at(stride: int) -> Bool[Array, "B h w 1"]:
            return extent_mask(level_extent(padded_size, stride), height // stride, width // stride)

        trains = train and config.freeze_at < 1
        conv = functools.partial(
            StemConv, config.width, 7, dtype=images.dtype, kernel_init=he_normal, name="stem_conv"
        )
        norm = make_norm(config.norm, config.norm_epsilon, name="stem_norm")
        x = conv_and_norm(conv, norm, images, mask_at(2), trains)
        x = relu(x, mask_at(2))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        x = zero_outside(x, mask_at(4))  # pooling windows reach one cell into the padding

        block_type = nn.remat(Block, static_argnums=(4,)) if config.remat else Block  # `train`
        maps, mask_in = {}, mask_at(4)
        for stage, blocks in enumerate(BLOCKS[config.depth], start=2):
            out_stride = 2**stage
            channels = config.width * 2 ** (stage - 2)
            mask = mask_at(out_stride)
            trains = train and config.freeze_at < stage
            for block in range(blocks):
                stride = 2 if stage > 2 and block == 0 else 1
                layer = block_type(channels, stride, config, name=f"stage{stage}_block{block}")
                x = layer(x, mask_in, mask, trains)
                mask_in = mask
            maps[out_stride] = x
        return maps
