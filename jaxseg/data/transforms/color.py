"""Random colours: one affine map, since each change of colour is linear.

The factors are those of torchvision's `ColorJitter`, the matrices those of Haeberli ("Matrix
Operations for Image Processing", 1993). Nothing is clipped between the four changes, so they
commute: contrast and brightness are the same for all channels, saturation and hue preserve a
colour's brightness and leave greys unchanged.
"""

import math

import cv2
import numpy as np

from jaxseg.data.transforms.augmentation import ColorJitter

_GREY = np.asarray([0.299, 0.587, 0.114])
"""Weights of a colour's brightness (ITU-R BT.601), as in Pillow and torchvision."""
_TO_YIQ = np.asarray([_GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def random_color_matrix(
    rng: np.random.Generator, jitter: ColorJitter, mean_color: np.ndarray
) -> np.ndarray:
    """Return a random affine map of colours, float64 `[3, 4]`.

    `mean_color` `[3]` is that of the image; contrast blends with its grey.
    """
    strengths = np.asarray([jitter.brightness, jitter.contrast, jitter.saturation])
    brightness, contrast, saturation = 1 + strengths * rng.uniform(-1, 1, 3)
    hue = _hue_rotation(2 * math.pi * jitter.hue * rng.uniform(-1, 1))  # [3, 3]
    matrix = hue @ (saturation * np.eye(3) + (1 - saturation) * _GREY)  # [3, 3]
    offset = np.full((3, 1), (1 - contrast) * (_GREY @ mean_color))
    return np.asarray(brightness * np.hstack([contrast * matrix, offset]))


def _hue_rotation(angle: float) -> np.ndarray:
    """Return the matrix `[3, 3]` that rotates the hue by an angle in radians.

    It rotates about the axis of greys in YIQ, so brightness and greys do not change.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.asarray([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.linalg.solve(_TO_YIQ, rotation @ _TO_YIQ)


def transform_colors(image: np.ndarray, matrix: np.ndarray) -> None:
    """Apply an affine map `[3, 4]` to an image's colours in place, clipped to 0 to 255.

    A uint8 image `[h, w, 3]` is rounded, a float32 image is not.
    """
    changed = cv2.transform(image, matrix)  # saturates uint8
    image[:] = changed if image.dtype == np.uint8 else np.clip(changed, 0, 255)
