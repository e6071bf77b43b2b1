"""From the pixels of an image to the numbers that a backbone was trained on."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.nn.padding import extent_mask, zero_outside


@dataclasses.dataclass(frozen=True)
class PixelConfig:
    """`(x - mean) / std` for each of red, green and blue, and the order they are fed in.

    The defaults are torchvision's. Weights that came from Caffe expect blue first and, mostly,
    no division.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr"] = "rgb"


MSRA_PIXELS = PixelConfig((123.675, 116.28, 103.53), (1.0, 1.0, 1.0), "bgr")
"""Of the "MSRA" ImageNet weights in Detectron2 and MMDetection."""


ComputeDtype = Literal["float32", "bfloat16"]
"""What layers compute in. Parameters, statistics of normalisation, boxes and losses are float32
whatever it is."""


def normalize(
    config: PixelConfig,
    images: Array,
    image_size: Int[Array, "B 2"],
    dtype: ComputeDtype = "float32",
) -> Float[Array, "B H W 3"]:
    """RGB images, uint8 or float32 from 0 to 255, normalised and with zeros in the padding.

    Every layer computes in the dtype of what it is given: this is where it is chosen.
    """
    mean, std = (jnp.asarray(v)[None, None, None, :] for v in (config.mean, config.std))
    x = (images.astype(jnp.float32) - mean) / std
    if config.channel_order == "bgr":
        x = x[..., ::-1]
    x = zero_outside(x, extent_mask(image_size, images.shape[1], images.shape[2]))
    return x.astype(dtype)
