"""Normalise the pixels of images as the backbone's pre-training did."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.nn.padding import extent_mask, zero_outside


@dataclasses.dataclass(frozen=True)
class PixelConfig:
    """`(x - mean) / std` for red, green and blue, and the order in which channels enter.

    The defaults are torchvision's. Weights from Caffe expect blue first and, mostly, no division.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"


MSRA_PIXELS = PixelConfig((123.675, 116.28, 103.53), (1.0, 1.0, 1.0), "bgr")
"""The pixels of the "MSRA" ImageNet weights in Detectron2 and MMDetection."""


ComputeDtype = Literal["float32", "bfloat16"]
"""The dtype that layers compute in. Parameters, statistics of normalisation, boxes and losses are
float32 in any case."""


def normalize(
    config: PixelConfig,
    images: Array,
    image_size: Int[Array, "B 2"],
    dtype: ComputeDtype = "float32",
) -> Float[Array, "B _ _ C"]:
    """Normalise RGB images, uint8 or float32 from 0 to 255, and set the padding to zero.

    The images are pixels `[B, H, W, 3]` or blocks of 2x2 pixels `[B, H/2, W/2, 12]`, and so is the
    result. Every layer computes in the dtype of its input, so `dtype` sets that of the whole model.
    """
    _, height, width, channels = images.shape
    pixels = channels // 3  # 1, or the 4 of a block
    mean, std = (
        jnp.tile(jnp.asarray(v), pixels)[None, None, None] for v in (config.mean, config.std)
    )
    x = (images.astype(jnp.float32) - mean) / std
    if config.channel_order == "bgr":
        x = x.reshape(*x.shape[:3], pixels, 3)[..., ::-1].reshape(x.shape)
    if pixels == 1:
        mask = extent_mask(image_size, height, width)
    else:
        mask = _block_mask(image_size, images)
    return zero_outside(x, mask).astype(dtype)


def _block_mask(image_size: Int[Array, "B 2"], blocks: Array) -> Bool[Array, "B h w 12"]:
    """Mark each channel whose pixel is inside the image; an odd size ends inside a block."""
    _, height, width, channels = blocks.shape
    pixel = jnp.arange(channels)[None, None] // 3  # its number in the block; 0 and 1 are above
    rows = 2 * jnp.arange(height)[None, :, None] + pixel // 2  # [1, H/2, 12]
    columns = 2 * jnp.arange(width)[None, :, None] + pixel % 2  # [1, W/2, 12]
    inside_y = rows < image_size[:, :1, None]
    inside_x = columns < image_size[:, 1:, None]
    return inside_y[:, :, None] & inside_x[:, None]
