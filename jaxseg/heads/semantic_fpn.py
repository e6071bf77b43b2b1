"""The semantic branch on a feature pyramid (Kirillov et al. 2019, arXiv 1901.02446, figure 3).

Convolutions and bilinear upsampling by two bring each level to the finest stride, then all are
added. Panoptic FPN predicts the class of each cell from the sum, SOLOv2 its mask feature.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxseg.heads.dense_tower import ConvGN, tower_init
from jaxseg.nn.conv import Conv
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.nn.resize import upsample2x


def sum_levels(
    pyramid: Pyramid, padded_size: Int[Array, "B 2"], *, channels: int, norm_groups: int
) -> Float[Array, "B h w _"]:
    """Bring all levels to the stride of the finest and add them.

    Each halving of the stride takes a 3x3 convolution with group normalisation and a ReLU, then
    the upsampling; the finest level gets one convolution. Call it in a module's compact method: the
    layers `level0_conv0`, `level1_conv0`, ... become that module's own. Zero outside the padded
    size.
    """
    levels = []
    for level, stride in enumerate(sorted(pyramid)):
        x, extent = pyramid[stride], level_extent(padded_size, stride)
        for number in range(max(level, 1)):
            mask = extent_mask(extent, *x.shape[1:3])
            x = ConvGN(channels, 3, norm_groups, name=f"level{level}_conv{number}")(x, mask)
            if level > 0:
                x, extent = upsample2x(x, extent), 2 * extent
        levels.append(x)
    total = sum(levels[1:], levels[0])
    inside = extent_mask(level_extent(padded_size, min(pyramid)), *total.shape[1:3])
    return zero_outside(total, inside)


class SemanticFPNHead(nn.Module):
    """P2 to P5 to the class logits of each cell at stride 4, `[B, h, w, num_classes]`."""

    num_classes: int
    channels: int
    norm_groups: int

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> Float[Array, "B h w _classes"]:
        strides = sorted(pyramid)[:4]
        x = sum_levels(
            {stride: pyramid[stride] for stride in strides},
            padded_size,
            channels=self.channels,
            norm_groups=self.norm_groups,
        )
        logit = Conv(self.num_classes, (1, 1), kernel_init=tower_init, dtype=x.dtype, name="logit")
        return logit(x).astype(jnp.float32)
