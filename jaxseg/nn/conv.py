"""Convolutions of feature maps, with gradients that are fast on a CPU.

On GPUs and TPUs every convolution and gradient is XLA's own, except that a TPU convolves images of
at most `MAX_IMAGE_CHANNELS` channels at stride 2, the stem of a backbone, as maps of half the width
and twice the channels: fewer of its lanes stay empty. XLA's CPU compiler hands a convolution
to fast kernels only in the forward layout, and the gradient of a kernel only for small maps: for a
3x3 convolution of 256 channels on a map of 200x272 cells it took ten times as long as the forward
pass, and in a loop or a conditional a hundred times. The rule on a CPU, for one group:

    1x1         products of matrices, forward and for both gradients
    stride 1    the input's gradient is a convolution with the flipped kernel. The kernel's is the
                sum of convolutions over parts of at most `PART_CELLS` cells, which contract the
                cells of a part: several images, or rows of one image
    otherwise   XLA's own

The sums have another order, so results differ from XLA's by rounding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.ops.scheduling import compute_after
from jaxseg.types import BLOCK_CHANNELS

PART_CELLS = 4096
"""Cells of a part, measured as the fastest between 1,400 and 13,600 on an AMD EPYC."""

MAX_IMAGE_CHANNELS = 4
"""More channels fill enough of a TPU's lanes without pairs of columns."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw _ D"],
    strides: tuple[int, int],
    pads: Pads,
    groups: int = 1,
) -> Float[Array, "B h w D"]:
    """Convolve maps with a kernel, both padded by `((above, below), (left, right))` zeros."""
    by_xla = functools.partial(_xla, strides=strides, pads=pads, groups=groups)
    if kernel.shape[:2] == (1, 1) and groups == 1:
        by_dot = functools.partial(_convolve_1x1, strides=strides, pads=pads)
        return lax.platform_dependent(x, kernel, cpu=by_dot, default=by_xla)
    is_image = x.shape[3] <= MAX_IMAGE_CHANNELS and x.shape[2] % 2 == 0
    if is_image and strides == (2, 2) and groups == 1:
        by_pairs = functools.partial(_convolve_column_pairs, pads=pads)
        return lax.platform_dependent(x, kernel, tpu=by_pairs, default=by_xla)
    return by_xla(x, kernel)


def _forward(x: Array, kernel: Array, *settings: Any) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, *settings), (x, kernel)


def _backward(
    strides: tuple[int, int],
    pads: Pads,
    groups: int,
    saved: tuple[Array, Array],
    gradient: Float[Array, "B h w D"],
) -> tuple[Array, Array]:
    x, kernel = saved

    def by_xla(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, k: _xla(x, k, strides, pads, groups), x, kernel)[1](gradient)

    def by_dot(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, k: _convolve_1x1(x, k, strides, pads), x, kernel)[1](gradient)

    def by_parts(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        of_x = _input_gradient(kernel, gradient, pads)
        return of_x, _kernel_gradient(x, gradient, pads).astype(kernel.dtype)

    def late(compute: Callable) -> Callable:
        """Make XLA copy `x` and `kernel` after it has computed `gradient`, not before."""
        return lambda x, kernel, gradient: compute(
            compute_after(x, gradient), compute_after(kernel, gradient), gradient
        )

    on_cpu = late(by_xla)
    if groups == 1 and kernel.shape[:2] == (1, 1):
        on_cpu = by_dot if strides == (1, 1) else late(by_dot)  # at stride 1 there are no copies
    elif groups == 1 and strides == (1, 1):
        on_cpu = late(by_parts)
    return lax.platform_dependent(x, kernel, gradient, cpu=on_cpu, default=by_xla)


convolve.defvjp(_forward, _backward)


def _xla(
    x: Array, kernel: Array, strides: tuple[int, int], pads: Pads, groups: int = 1
) -> Float[Array, "B h w D"]:
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_LAYOUT, feature_group_count=groups
    )


def _convolve_1x1(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "1 1 C D"],
    strides: tuple[int, int],
    pads: Pads,
) -> Float[Array, "B h w D"]:
    """Multiply each cell that the strides reach by the kernel's matrix."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))[:, :: strides[0], :: strides[1]]
    product = x.reshape(-1, x.shape[3]) @ kernel[0, 0]
    return product.reshape(*x.shape[:3], -1)


def _convolve_column_pairs(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], pads: Pads
) -> Float[Array, "B h w D"]:
    """Convolve at stride 2 with each two columns as one of twice the channels; W is even."""
    batch, height, width, channels = x.shape
    zeros, pads_of_pairs = _pair_up(width, kernel.shape[1], pads[1])
    kernel = jnp.pad(kernel, ((0, 0), zeros, (0, 0), (0, 0)))
    return _xla(
        x.reshape(batch, height, width // 2, 2 * channels),
        kernel.reshape(kernel.shape[0], kernel.shape[1] // 2, 2 * channels, -1),
        (2, 1),
        (pads[0], pads_of_pairs),
    )


def convolve_blocks(
    blocks: Float[Array, "B _ _ _"], kernel: Float[Array, "kh kw C D"], pads: Pads
) -> Float[Array, "B h w D"]:
    """Convolve images at stride 2, given as blocks of 2x2 pixels, with a kernel for pixels.

    `pads` are in pixels, and the result is that of `convolve` for the pixels.
    """
    _, rows, columns, _ = blocks.shape
    zeros_y, pads_y = _pair_up(2 * rows, kernel.shape[0], pads[0])
    zeros_x, pads_x = _pair_up(2 * columns, kernel.shape[1], pads[1])
    kernel = jnp.pad(kernel, (zeros_y, zeros_x, (0, 0), (0, 0)))
    height, width, channels, features = kernel.shape
    kernel = kernel.reshape(height // 2, 2, width // 2, 2, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)  # [kh/2, kw/2, 2, 2, C, D]
    kernel = kernel.reshape(height // 2, width // 2, 4 * channels, features)
    return convolve(blocks, kernel, (1, 1), (pads_y, pads_x))


def _pair_up(
    length: int, size: int, pads: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return `(zeros, pads)` of an axis whose convolution at stride 2 becomes one of pairs.

    The axis has an even `length`, the kernel `size` elements, and both are padded by `pads`. With
    `zeros` before and after the kernel, every window consists of whole pairs; the `pads` that are
    returned count pairs.
    """
    results = (length + sum(pads) - size) // 2 + 1
    before = pads[0] % 2
    after = (before + size) % 2
    pairs = (before + size + after) // 2  # of a window
    left = (pads[0] + before) // 2
    return (before, after), (left, results - 1 + pairs - length // 2 - left)


def _input_gradient(
    kernel: Float[Array, "kh kw C D"], gradient: Float[Array, "B h w D"], pads: Pads
) -> Float[Array, "B H W C"]:
    """Return the gradient of the input at stride 1."""
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)  # [kh, kw, D, C]
    rest = [
        (size - 1 - a, size - 1 - b) for size, (a, b) in zip(kernel.shape[:2], pads, strict=True)
    ]
    return _xla(gradient, flipped, (1, 1), (rest[0], rest[1]))


def _kernel_gradient(
    x: Float[Array, "B H W C"], gradient: Float[Array, "B h w D"], pads: Pads
) -> Float[Array, "kh kw C D"]:
    """Return the gradient of the kernel at stride 1, summed over parts in float32."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    batch, height, width, _ = gradient.shape
    margin = x.shape[1] - height  # rows of the input that a row of the output reads beyond its own
    rows = max(1, min(height, PART_CELLS // width))
    images = max(1, PART_CELLS // (height * width))

    def part(i: int, y: int) -> Array:
        """Convolve with the channels as images, the images as channels, the gradient as kernel."""
        cells = x[i : i + images, y : y + rows + margin].transpose(3, 1, 2, 0)  # [C, H, W, B]
        weights = gradient[i : i + images, y : y + rows].transpose(1, 2, 0, 3)  # [h, w, B, D]
        return lax.conv_general_dilated(
            cells,
            weights,
            (1, 1),
            "VALID",
            dimension_numbers=_LAYOUT,
            preferred_element_type=jnp.float32,
        )  # [C, kh, kw, D]

    parts = [part(i, y) for i in range(0, batch, images) for y in range(0, height, rows)]
    return sum(parts[1:], parts[0]).transpose(1, 2, 0, 3)


def _of_flax(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    **settings: Any,
) -> Float[Array, "B h w D"]:
    """Convolve as Flax calls it. Raises ValueError for settings that `convolve` does not have."""
    if {*settings["lhs_dilation"], *settings["rhs_dilation"]} != {1} or settings["precision"]:
        raise ValueError("jaxseg.nn.conv.Conv has no dilation or precision: use flax.linen.Conv")
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    pads = ((padding[0][0], padding[0][1]), (padding[1][0], padding[1][1]))
    return convolve(x, kernel, tuple(strides), pads, settings["feature_group_count"])


Conv = functools.partial(nn.Conv, conv_general_dilated=_of_flax)
"""`flax.linen.Conv` for maps `[B, H, W, C]`, computed by `convolve`."""


class StemConv(nn.Module):
    """A convolution of RGB images at stride 2 without bias, padded by `size // 2` on every side.

    The images are pixels `[B, H, W, 3]` or blocks of 2x2 pixels `[B, H/2, W/2, 12]`; the kernel is
    one for pixels, `[size, size, 3, features]`, in both cases.
    """

    features: int
    size: int
    dtype: DTypeLike | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    promote_dtype: Callable[..., list[Any]] = promote_dtype

    @nn.compact
    def __call__(self, images: Float[Array, "B _ _ _"]) -> Float[Array, "B h w D"]:
        shape = (self.size, self.size, 3, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel, _ = self.promote_dtype(images, kernel, None, dtype=self.dtype)
        pad = (self.size // 2, self.size // 2)
        pads = (pad, pad)
        if images.shape[3] == BLOCK_CHANNELS:
            return convolve_blocks(x, kernel, pads)
        return convolve(x, kernel, (2, 2), pads)
