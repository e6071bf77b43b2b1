"""Normalise the pixels of images as the backbone's pre-training did."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
) -> Float[Array, "B H W 3"]:
    """Normalise RGB images, uint8 or float32 from 0 to 255, and set the padding to zero.

    Every layer computes in the dtype of its input, so `dtype` sets that of the whole model.
    """
    mean, std = (jnp.asarray(v)[None, None, None, :] for v in (config.mean, config.std))
    x = (images.astype(jnp.float32) - mean) / std
    if config.channel_order == "bgr":
        x = x[..., ::-1]
    x = zero_outside(x, extent_mask(image_size, images.shape[1], images.shape[2]))
    return x.astype(dtype)
