"""The two heads of SOLOv2 (Wang et al. 2020, arXiv 2003.10152, section 3 and figure 2).

Terms:
    grid   the S x S cells that a level of the pyramid is resized to, whatever its shape
    E      numbers of the kernel that a cell predicts
    K      cells of all grids of an image, in the order (level, y, x)
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.norm import GroupNorm
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.nn.resize import coord_grid, resize, upsample2x

_normal = nn.initializers.normal(0.01)
CLASS_PRIOR = 0.01
"""Probability of every class that an untrained head starts from (Lin et al. 2017,
arXiv 1708.02002, section 3.3)."""


class ConvNorm(nn.Module):
    """A convolution, group normalisation and a ReLU."""

    channels: int
    size: int
    groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], mask: Bool[Array, "B h w 1"]
    ) -> Float[Array, "B h w _channels"]:
        window, pad = (self.size, self.size), self.size // 2
        conv = nn.Conv(
            self.channels,
            window,
            padding=pad,
            use_bias=False,
            kernel_init=_normal,
            dtype=x.dtype,
            name="conv",
        )
        x = GroupNorm(self.groups, name="norm")(conv(x), mask, train=False)
        return zero_outside(nn.relu(x), mask)


class SOLOv2Head(nn.Module):
    """The pyramid to class logits `[B, K, C]` and kernels `[B, K, E]`, by two towers of
    convolutions that all grids share; the kernels' tower sees coordinates (CoordConv)."""

    num_classes: int
    kernel_channels: int
    grids: tuple[int, ...]
    convs: int
    channels: int
    groups: int

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> tuple[Float[Array, "B K _classes"], Float[Array, "B K E"]]:
        def tower(kind: str) -> list[ConvNorm]:
            return [
                ConvNorm(self.channels, 3, self.groups, name=f"{kind}_conv{number}")
                for number in range(1, self.convs + 1)
            ]

        class_tower, kernel_tower = tower("class"), tower("kernel")
        dtype = next(iter(pyramid.values())).dtype
        prior = nn.initializers.constant(-math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
        logit = nn.Conv(
            self.num_classes,
            (3, 3),
            padding=1,
            kernel_init=_normal,
            bias_init=prior,
            dtype=dtype,
            name="logit",
        )
        kernel = nn.Conv(
            self.kernel_channels,
            (3, 3),
            padding=1,
            kernel_init=_normal,
            dtype=dtype,
            name="kernel",
        )
        logits, kernels = [], []
        for x, extent, grid in zip(*_resized_levels(pyramid, padded_size), self.grids, strict=True):
            x = _with_coordinates(x, extent)
            whole = jnp.full_like(extent, grid)
            x = resize(x, extent, whole, (grid, grid))
            mask = jnp.ones((*x.shape[:3], 1), bool)
            classes = x[..., :-2]
            for layer in class_tower:
                classes = layer(classes, mask)
            for layer in kernel_tower:
                x = layer(x, mask)
            logits.append(logit(classes).reshape(len(x), grid * grid, -1))
            kernels.append(kernel(x).reshape(len(x), grid * grid, -1))
        float32 = jnp.float32
        return jnp.concatenate(logits, 1).astype(float32), jnp.concatenate(kernels, 1).astype(
            float32
        )


def _resized_levels(
    pyramid: Pyramid, padded_size: Int[Array, "B 2"]
) -> tuple[list[Array], list[Array]]:
    """P2 to P6 and their extents, the first resized to P3's and the last to P5's."""
    strides = sorted(pyramid)
    maps = [pyramid[stride] for stride in strides]
    extents = [level_extent(padded_size, stride) for stride in strides]
    for level, like in ((0, 1), (-1, -2)):
        shape = maps[like].shape[1], maps[like].shape[2]
        maps[level] = resize(maps[level], extents[level], extents[like], shape)
        extents[level] = extents[like]
    return maps, extents


def _with_coordinates(
    x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]
) -> Float[Array, "B h w C+2"]:
    place = coord_grid(extent, *x.shape[1:3]).astype(x.dtype)
    return jnp.concatenate([x, place], axis=-1)


class MaskFeatureHead(nn.Module):
    """P2 to P5 to one map at stride 4, `[B, h, w, channels]`: each level is brought to that stride
    by convolutions and doublings, all are added; the coarsest one sees coordinates."""

    hidden: int
    channels: int
    groups: int

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> Float[Array, "B h w _channels"]:
        strides = sorted(pyramid)[:4]
        levels = []
        for level, stride in enumerate(strides):
            x, extent = pyramid[stride], level_extent(padded_size, stride)
            if stride == strides[-1]:
                x = _with_coordinates(x, extent)
            for number in range(max(level, 1)):
                mask = extent_mask(extent, *x.shape[1:3])
                x = ConvNorm(self.hidden, 3, self.groups, name=f"level{level}_conv{number}")(
                    x, mask
                )
                if level > 0:
                    x, extent = upsample2x(x, extent), 2 * extent
            levels.append(x)
        total = sum(levels[1:], levels[0])
        mask = extent_mask(level_extent(padded_size, strides[0]), *total.shape[1:3])
        out = ConvNorm(self.channels, 1, self.groups, name="output")(total, mask)
        return out.astype(jnp.float32)
