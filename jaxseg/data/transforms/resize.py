"""Images to the size that a model was trained on, as each codebase does it.

Terms:
    canvas   the static `(height, width)` that every image is padded to, right and below
    scaled   of the image after resizing; boxes are scaled with it, each axis by its own
             exact factor (sizes are whole pixels)
"""

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

ResizeBackend = Literal["cv2", "torch", "pillow"]
"""How an image is resized; all are bilinear.

cv2: whole numbers, as MMDetection does.
torch: not rounded to whole numbers (`Batch.images` is float32), and sizes rounded down,
    as torchvision's detection models do.
pillow: averaged over all pixels when shrinking, as Detectron2 does.
"""


def scaled_size(
    size: tuple[int, int],
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    resize_backend: ResizeBackend = "cv2",
) -> tuple[int, int]:
    """`(height, width)` after resizing with the aspect kept.

    `min_max_size` is `(shorter, longer)`: the shorter side becomes `shorter` unless the longer one
    would pass `longer` (Lin et al. 2017, section 5). Without it the size stays. An image
    that would not fit into the canvas is made smaller until it does.
    """
    scale = min(bucket[0] / size[0], bucket[1] / size[1])
    if min_max_size is None:
        scale = min(scale, 1.0)
    else:
        scale = min(scale, min_max_size[0] / min(size), min_max_size[1] / max(size))
    return whole_size(size, scale, bucket, resize_backend)


def whole_size(
    size: tuple[int, int], scale: float, bucket: tuple[int, int], resize_backend: ResizeBackend
) -> tuple[int, int]:
    """`(height, width)` times a scale as whole pixels, at least 1 and at most the canvas."""
    rounding = 0.0 if resize_backend == "torch" else 0.5
    height, width = (math.floor(side * scale + rounding) for side in size)
    return min(max(height, 1), bucket[0]), min(max(width, 1), bucket[1])


def choose_buckets(
    sizes: np.ndarray,
    buckets: Sequence[tuple[int, int]],
    min_max_size: tuple[int, int] | None,
) -> np.ndarray:
    """The number of each image's canvas, int `[n]`: the smallest on which an image of `sizes[i]`
    `(height, width)` need not be smaller than it could be on any of them."""
    height, width = np.asarray(sizes, np.float64).reshape(-1, 2).T
    if min_max_size is None:
        wanted = np.ones(len(height))
    else:
        shorter, longer = np.minimum(height, width), np.maximum(height, width)
        wanted = np.minimum(min_max_size[0] / shorter, min_max_size[1] / longer)
    rows, columns = np.asarray(buckets, np.float64).T
    scales = np.minimum(rows / height[:, None], columns / width[:, None])
    # A scaled side may end half a pixel beyond the canvas: it is rounded, or cut, to whole pixels.
    scales = np.minimum(scales * (1 + 1e-3), wanted[:, None])
    area = rows * columns
    best = scales >= scales.max(1, keepdims=True) * (1 - 1e-9)
    return np.argmin(np.where(best, area, np.inf), axis=1)


def fit_image(
    image: np.ndarray,
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    resize_backend: ResizeBackend = "cv2",
) -> tuple[np.ndarray, tuple[int, int]]:
    """A uint8 image, resized, on a canvas of zeros, and its `(height, width)` there.

    The canvas is uint8 `[H, W, 3]`, or float32 from 0 to 255 with `torchvision`.
    """
    size = scaled_size((image.shape[0], image.shape[1]), bucket, min_max_size, resize_backend)
    return draw_image(image, size, bucket, resize_backend), size


def draw_image(
    image: np.ndarray, size: tuple[int, int], bucket: tuple[int, int], resize_backend: ResizeBackend
) -> np.ndarray:
    """A uint8 image, resized to `size` `(height, width)`, on a canvas as `fit_image` makes it."""
    height, width = size
    if resize_backend == "torch":
        image = image.astype(np.float32)
    if size != image.shape[:2]:
        if resize_backend == "pillow":
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.asarray(resized)
        else:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = np.zeros((*bucket, 3), image.dtype)
    padded[:height, :width] = image
    return padded
