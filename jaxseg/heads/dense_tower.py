"""Towers of convolutions on feature maps, for heads that predict at every cell."""

from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxseg.nn.activation import relu
from jaxseg.nn.conv import Conv
from jaxseg.nn.norm import GroupNorm

tower_init = nn.initializers.normal(0.01)
"""Initial weights of dense heads (Lin et al. 2017, arXiv 1708.02002, section 4.1)."""


class ConvGN(nn.Module):
    """A convolution, group normalisation and a ReLU; zero outside the mask."""

    channels: int
    size: int
    groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], mask: Bool[Array, "B h w 1"]
    ) -> Float[Array, "B h w _channels"]:
        conv = Conv(
            self.channels,
            (self.size, self.size),
            padding=self.size // 2,
            use_bias=False,
            kernel_init=tower_init,
            dtype=x.dtype,
            name="conv",
        )
        x = GroupNorm(self.groups, name="norm")(conv(x), mask, train=False)
        return relu(x, mask)


class DenseTower(nn.Module):
    """`num_convs` 3x3 convolutions with group normalisation and ReLUs, shared by all levels."""

    num_convs: int
    channels: int
    groups: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], mask: Bool[Array, "B h w 1"]
    ) -> Float[Array, "B h w _channels"]:
        for number in range(1, self.num_convs + 1):
            x = ConvGN(self.channels, 3, self.groups, name=f"conv{number}")(x, mask)
        return x
