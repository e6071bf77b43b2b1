"""Feature pyramid (Lin et al. 2017, arXiv 1612.03144).

A 1x1 "lateral" convolution brings each of C2 to C5 to the same number of channels, each
coarser sum is doubled in size and added to the next finer one, and a 3x3 "output"
convolution gives P2 to P5. P6 is every second cell of P5 (section 4.1, footnote 3).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxseg.nn.norm import NormKind, make_norm
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.nn.resnet import FeatureMaps

Pyramid = dict[int, Float[Array, "B _ _ C"]]
"""P2 to P6 by stride, finest first, each zero outside the images' canvas."""

_xavier_uniform = nn.initializers.xavier_uniform()


class FPN(nn.Module):
    """`{4: C2, ..., 32: C5}` to `{4: P2, ..., 32: P5, 64: P6}`, `channels` each."""

    channels: int
    norm: NormKind | None = None

    @nn.compact
    def __call__(self, maps: FeatureMaps, padded_size: Int[Array, "B 2"], train: bool) -> Pyramid:
        def layer(x: Array, size: int, mask: Array, name: str) -> Array:
            x = nn.Conv(
                self.channels,
                (size, size),
                padding=size // 2,
                use_bias=self.norm is None,
                dtype=x.dtype,
                kernel_init=_xavier_uniform,
                name=name,
            )(x)
            if self.norm is not None:
                x = make_norm(self.norm, name=f"{name}_norm")(x, mask, train)
            return zero_outside(x, mask)

        pyramid: Pyramid = {}
        coarser = None
        for level, (stride, x) in reversed(list(enumerate(maps.items(), start=2))):
            mask = extent_mask(level_extent(padded_size, stride), *x.shape[1:3])
            merged = layer(x, 1, mask, f"lateral{level}")
            if coarser is not None:
                merged = merged + zero_outside(_double(coarser), mask)
            pyramid[stride] = layer(merged, 3, mask, f"output{level}")
            coarser = merged
        pyramid = dict(sorted(pyramid.items()))
        coarsest = max(pyramid)
        pyramid[2 * coarsest] = pyramid[coarsest][:, ::2, ::2]
        return pyramid


def _double(x: Float[Array, "B h w C"]) -> Float[Array, "B 2*h 2*w C"]:
    """Nearest-neighbour upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
