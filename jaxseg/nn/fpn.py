"""Feature pyramid network (Lin et al. 2017, arXiv 1612.03144).

A 1x1 "lateral" convolution brings each of C2 to C5 to the same number of channels, each
coarser sum is upsampled by two and added to the next finer one, and a 3x3 "output"
convolution gives P2 to P5. Coarser levels are pooled or convolved.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxseg.nn.activation import relu
from jaxseg.nn.backbone import FeatureMaps
from jaxseg.nn.conv import Conv
from jaxseg.nn.norm import NormKind, make_norm
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside

Pyramid = dict[int, Float[Array, "B _ _ C"]]
"""P2 to P6 (or further) by stride, finest first, each zero outside the images' padded size."""

_xavier_uniform = nn.initializers.xavier_uniform()


class FPN(nn.Module):
    """`{4: C2, ..., 32: C5}` to `{4: P2, ..., 32: P5, 64: P6, ...}`, `channels` each.

    It begins at the finest map that it is given: without C2 there is no P2.
    """

    channels: int
    norm: NormKind | None = None
    num_extra_levels: int = 1
    """Levels beyond the backbone's coarsest, each with twice the stride of the one before."""
    extra_convs: Literal["on_input", "on_output"] | None = None
    """Make extra levels by 3x3 convolutions of stride 2, the first one from the backbone's
    coarsest map (RetinaNet, YOLACT) or from its output (FCOS); None takes every second cell of the
    level before (section 4.1, footnote 3). MMDetection's `add_extra_convs`."""
    relu_before_extra_convs: bool = False
    """Apply a ReLU before the extra convolutions after the first one."""

    @nn.compact
    def __call__(self, maps: FeatureMaps, padded_size: Int[Array, "B 2"], train: bool) -> Pyramid:
        def layer(x: Array, size: int, stride: int, level_stride: int, name: str) -> Array:
            x = Conv(
                self.channels,
                (size, size),
                strides=(stride, stride),
                padding=size // 2,
                use_bias=self.norm is None,
                dtype=x.dtype,
                kernel_init=_xavier_uniform,
                name=name,
            )(x)
            mask = extent_mask(level_extent(padded_size, level_stride), *x.shape[1:3])
            if self.norm is not None:
                x = make_norm(self.norm, name=f"{name}_norm")(x, mask, train)
            return zero_outside(x, mask)

        pyramid: Pyramid = {}
        coarser = None
        for stride, x in sorted(maps.items(), reverse=True):
            level = stride.bit_length() - 1  # 2 for P2 at stride 4
            merged = layer(x, 1, 1, stride, f"lateral{level}")
            if coarser is not None:
                mask = extent_mask(level_extent(padded_size, stride), *x.shape[1:3])
                merged = merged + zero_outside(_upsample_nearest2x(coarser), mask)
            pyramid[stride] = layer(merged, 3, 1, stride, f"output{level}")
            coarser = merged

        coarsest = max(maps)
        x = maps[coarsest] if self.extra_convs == "on_input" else pyramid[coarsest]
        for number in range(self.num_extra_levels):
            stride = coarsest << (number + 1)
            if self.extra_convs is None:
                x = x[:, ::2, ::2]
            else:
                if number > 0 and self.relu_before_extra_convs:
                    x = relu(x)
                x = layer(x, 3, 2, stride, f"extra{stride.bit_length() - 1}")
            pyramid[stride] = x
        return dict(sorted(pyramid.items()))


def _upsample_nearest2x(x: Float[Array, "B h w C"]) -> Float[Array, "B 2*h 2*w C"]:
    # Double the columns by way of the channels: for a TPU, XLA predicts half of the time that
    # `jnp.repeat` takes.
    batch, height, width, channels = x.shape
    twice = jnp.concatenate([x, x], axis=3).reshape(batch, height, 2 * width, channels)
    return jnp.repeat(twice, 2, axis=1)
