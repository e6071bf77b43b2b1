"""Normalisation layers that exclude padding from their statistics.

Each computes in float32 and returns the dtype of its input. It is called as
`norm(x, mask, train)`: `x [B, h, w, C]`, `mask [B, h, w, 1]` (false in the padding;
statistics are taken over the other cells, the "data cells") and `train`, true in a training step.
The kinds:

    frozen      batch norm with fixed statistics, scale and bias, as detectors are fine-tuned
                from ImageNet (He et al. 2017, arXiv 1703.06870, section 3.1)
    norm_eval   batch norm with fixed statistics whose scale and bias are trained, as
                MMDetection fine-tunes
    sync_batch  batch norm over the global batch, all devices together
                (Peng et al. 2018, arXiv 1711.07240: "cross-GPU batch normalization")
    group       group norm (Wu & He 2018, arXiv 1803.08494), the same at any batch size
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from jaxseg.model import BATCH_AXIS

NormKind = Literal["frozen", "norm_eval", "sync_batch", "group"]


class FrozenBatchNorm(nn.Module):
    """Batch norm that never changes: all four vectors are state, none is a parameter."""

    epsilon: float = 1e-5

    def __call__(
        self, x: Float[Array, "B h w C"], mask: Bool[Array, "B h w 1"], train: bool
    ) -> Float[Array, "B h w C"]:
        del mask, train
        return _affine(x, *self.factor_and_shift(x.shape[-1]))

    @nn.compact
    def factor_and_shift(self, channels: int) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
        """Return what each channel is multiplied by, and then what is added to it."""
        shape = (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        var = self.variable("batch_stats", "var", jnp.ones, shape).value
        scale = self.variable("batch_stats", "scale", jnp.ones, shape).value
        bias = self.variable("batch_stats", "bias", jnp.zeros, shape).value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor


class BatchNorm(nn.Module):
    """Batch norm with training statistics over the global batch, unless they are `fixed`.

    Training calls must run where the axis `BATCH_AXIS` is mapped, as the training step does. The
    running statistics move by `1 - momentum` however few data cells there are, as in PyTorch; with
    one or none, which have no variance, they stay as they are.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    fixed: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], mask: Bool[Array, "B h w 1"], train: bool
    ) -> Float[Array, "B h w C"]:
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean, var = running_mean.value, running_var.value
        if train and not self.fixed:
            mean, var, count = _global_statistics(x, mask)
            unbiased = var * count / jnp.maximum(count - 1, 1)
            keep = jnp.where(count > 1, self.momentum, 1.0)
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return _affine(x, factor, bias - mean * factor)


def _global_statistics(
    x: Float[Array, "B h w C"], mask: Bool[Array, "B h w 1"]
) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, ""]]:
    """Return mean, variance and number of the data cells over all devices."""
    data = jnp.where(mask, x, 0).astype(jnp.float32)
    sums = (data.sum((0, 1, 2)), (data * data).sum((0, 1, 2)), mask.sum(dtype=jnp.float32))
    total, squares, count = jax.lax.psum(sums, BATCH_AXIS)
    count = jnp.maximum(count, 1)
    mean = total / count
    return mean, jnp.maximum(squares / count - mean * mean, 0), count


class GroupNorm(nn.Module):
    """Group norm over each image's data cells; 32 groups, or C / 2 where C is below 64."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], mask: Bool[Array, "B h w 1"], train: bool
    ) -> Float[Array, "B h w C"]:
        del train
        batch, height, width, channels = x.shape
        groups = max(min(self.groups, channels // 2), 1)
        if channels % groups:
            raise ValueError(
                f"{channels} channels do not divide into the {groups} groups of group norm: choose "
                f"another number of channels or groups (norm_groups)"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        grouped = x.astype(jnp.float32)
        grouped = grouped.reshape(batch, height, width, groups, channels // groups)
        inside = mask[..., None]  # [B, h, w, 1, 1]
        cells = inside.sum((1, 2, 3, 4), keepdims=True, dtype=jnp.float32)
        count = jnp.maximum(cells, 1) * (channels // groups)
        mean = jnp.where(inside, grouped, 0).sum((1, 2, 4), keepdims=True) / count
        centred = jnp.where(inside, grouped - mean, 0)
        var = (centred * centred).sum((1, 2, 4), keepdims=True) / count
        normal = (centred * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (normal * _channels(scale) + _channels(bias)).astype(x.dtype)


def _affine(
    x: Float[Array, "B h w C"], factor: Float[Array, " C"], shift: Float[Array, " C"]
) -> Float[Array, "B h w C"]:
    """Compute `x * factor + shift` in float32, returned in the dtype of `x`."""
    return (x.astype(jnp.float32) * _channels(factor) + _channels(shift)).astype(x.dtype)


def _channels(vector: Float[Array, " C"]) -> Float[Array, "1 1 1 C"]:
    return vector[None, None, None, :]


def make_norm(kind: NormKind, epsilon: float = 1e-5, name: str | None = None) -> nn.Module:
    """Return the layer of a kind, for use in a module's `setup` or compact method."""
    layers: dict[str, Callable[..., nn.Module]] = {
        "frozen": FrozenBatchNorm,
        "norm_eval": functools.partial(BatchNorm, fixed=True),
        "sync_batch": BatchNorm,
        "group": GroupNorm,
    }
    return layers[kind](epsilon=epsilon, name=name)


def conv_and_norm(
    conv: functools.partial[nn.Module],
    norm: nn.Module,
    x: Float[Array, "B _ _ _"],
    mask: Bool[Array, "B h w 1"],
    train: bool,
) -> Float[Array, "B h w C"]:
    """Apply a convolution without bias, such as `functools.partial(Conv, 64, (3, 3))`, and a norm.

    A frozen batch norm multiplies the kernel instead of the map: one pass less over memory, and a
    form that compilers fuse.
    """
    if not isinstance(norm, FrozenBatchNorm):
        return norm(conv()(x), mask, train)
    factor, shift = norm.factor_and_shift(conv.args[0])

    def promote(x: Array, kernel: Array, bias: Array | None, **settings: Any) -> list[Any]:
        return promote_dtype(x, kernel * factor[None, None, None], bias, **settings)

    y = conv(promote_dtype=promote)(x)
    return (y.astype(jnp.float32) + _channels(shift)).astype(y.dtype)
