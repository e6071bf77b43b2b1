"""Resize images to a model's input size, with the rounding and filter of each codebase.

Terms:
    bucket   the static `(height, width)` that images are padded to, on the right and below
    size     `(height, width)` after resizing, in whole pixels. Boxes are scaled with the image,
             each axis by its own exact factor.
"""

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image

ResizeBackend = Literal["cv2", "torch", "pillow"]
"""The filter that resizes images; all are bilinear.

cv2: rounded to whole numbers, as in MMDetection.
torch: not rounded to whole numbers (`Batch.images` is float32), and sizes rounded down,
    as in torchvision's detection models.
pillow: averaged over all pixels when shrinking, as in Detectron2.
"""


def scaled_size(
    size: tuple[int, int],
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    resize_backend: ResizeBackend = "cv2",
) -> tuple[int, int]:
    """Return `(height, width)` after resizing with the aspect ratio kept.

    `min_max_size` is `(min_size, max_size)`: the shorter side becomes `min_size` unless the longer
    one would exceed `max_size` (Lin et al. 2017, section 5). With None the size stays. An image
    that would not fit into the bucket is shrunk until it does.
    """
    scale = min(bucket[0] / size[0], bucket[1] / size[1])
    if min_max_size is None:
        scale = min(scale, 1.0)
    else:
        scale = min(scale, min_max_size[0] / min(size), min_max_size[1] / max(size))
    return rounded_size(size, scale, bucket, resize_backend)


def rounded_size(
    size: tuple[int, int], scale: float, bucket: tuple[int, int], resize_backend: ResizeBackend
) -> tuple[int, int]:
    """Return `(height, width)` times a scale in whole pixels, at least 1 and at most the bucket."""
    rounding = 0.0 if resize_backend == "torch" else 0.5
    height, width = (math.floor(side * scale + rounding) for side in size)
    return min(max(height, 1), bucket[0]), min(max(width, 1), bucket[1])


def choose_buckets(
    sizes: np.ndarray,
    buckets: Sequence[tuple[int, int]],
    min_max_size: tuple[int, int] | None,
) -> np.ndarray:
    """Return the index of each image's bucket, int `[n]`, for `sizes` `(height, width)`, `[n, 2]`.

    It is the bucket of the smallest area among those in which the image is largest.
    """
    height, width = np.asarray(sizes, np.float64).reshape(-1, 2).T  # [n] each
    if min_max_size is None:
        target = np.ones(len(height))
    else:
        shorter, longer = np.minimum(height, width), np.maximum(height, width)
        target = np.minimum(min_max_size[0] / shorter, min_max_size[1] / longer)
    rows, columns = np.asarray(buckets, np.float64).T  # [K] each
    scales = np.minimum(rows / height[:, None], columns / width[:, None])  # [n, K]
    # A scaled side may end half a pixel outside of the bucket: sizes are rounded, or cut, to whole
    # pixels.
    scales = np.minimum(scales * (1 + 1e-3), target[:, None])
    largest = scales >= scales.max(1, keepdims=True) * (1 - 1e-9)  # [n, K]
    return np.argmin(np.where(largest, rows * columns, np.inf), axis=1)


def fit_image(
    image: np.ndarray,
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    resize_backend: ResizeBackend = "cv2",
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a uint8 image resized and padded with zeros to its bucket, and its `(height, width)`.

    The padded image is uint8 `[H, W, 3]`, or float32 from 0 to 255 with the backend "torch".
    """
    size = scaled_size((image.shape[0], image.shape[1]), bucket, min_max_size, resize_backend)
    return resize_and_pad(image, size, bucket, resize_backend), size


def resize_and_pad(
    image: np.ndarray, size: tuple[int, int], bucket: tuple[int, int], resize_backend: ResizeBackend
) -> np.ndarray:
    """Return a uint8 image resized to `size` `(height, width)` and padded as `fit_image` does."""
    height, width = size
    if resize_backend == "torch":
        image = image.astype(np.float32)
    if size != image.shape[:2]:
        if resize_backend == "pillow":
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.asarray(resized)
        else:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = np.zeros((*bucket, 3), image.dtype)  # [H, W, 3]
    padded[:height, :width] = image
    return padded


def nearest_pixels(
    pixels: np.ndarray, resized: int, side: int, resize_backend: ResizeBackend
) -> np.ndarray:
    """Return the source pixel of each pixel `[n]` after resizing `side` to `resized`, int `[n]`.

    It is the one that the backend's own `nearest` takes, rounding included.
    """
    if resize_backend == "pillow":
        # Pillow takes the pixel under the centre, and gets there by adding up steps.
        steps = np.full(resized, side / resized)
        steps[0] /= 2
        position = np.cumsum(steps)[pixels]
    elif resize_backend == "torch":
        position = pixels.astype(np.float32) * np.float32(np.float32(side) / np.float32(resized))
    else:
        position = pixels * (1 / (resized / side))  # OpenCV inverts the rounded scale factor
    return np.minimum(np.floor(position).astype(np.int64), side - 1)
