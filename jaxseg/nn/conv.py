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
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

PART_CELLS = 4096
"""Cells of a part, measured as the fastest between 1,400 and 13,600 on an AMD EPYC."""

MAX_IMAGE_CHANNELS = 4

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

    if groups == 1 and kernel.shape[:2] == (1, 1):
        return lax.platform_dependent(x, kernel, gradient, cpu=by_dot, default=by_xla)
    if groups == 1 and strides == (1, 1):
        return lax.platform_dependent(x, kernel, gradient, cpu=by_parts, default=by_xla)
    return by_xla(x, kernel, gradient)


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
    left, right = pads[1]
    columns = (width + left + right - kernel.shape[1]) // 2 + 1  # of the result
    # A window begins at an even column, and has an even width, with zeros in the kernel.
    before = left % 2
    after = (before + kernel.shape[1]) % 2
    kernel = jnp.pad(kernel, ((0, 0), (before, after), (0, 0), (0, 0)))
    pairs = kernel.shape[1] // 2  # of columns in a window
    left = (left + before) // 2
    right = columns - 1 + pairs - width // 2 - left
    return _xla(
        x.reshape(batch, height, width // 2, 2 * channels),
        kernel.reshape(kernel.shape[0], pairs, 2 * channels, -1),
        (2, 1),
        (pads[0], (left, right)),
    )


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
