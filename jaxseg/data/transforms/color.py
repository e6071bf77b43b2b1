"""Random colours: one affine map of the colour, since all changes of it are linear.

Factors are torchvision's (`ColorJitter`), the matrices Haeberli's ("Matrix Operations for Image
Processing", 1993). With nothing cut in between, the four changes commute: contrast and brightness
are the same for all channels, saturation and hue leave a colour's brightness and greys alone.
"""

import math

import cv2
import numpy as np

from jaxseg.data.transforms.augmentation import ColorJitter

_GREY = np.asarray([0.299, 0.587, 0.114])
"""Weights of a colour's brightness (ITU-R BT.601), as Pillow's and torchvision's."""
_TO_YIQ = np.asarray([_GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def random_colors(rng: np.random.Generator, jitter: ColorJitter, mean: np.ndarray) -> np.ndarray:
    """An affine map of colours, float64 `[3, 4]`, for an image of a mean colour `[3]`."""
    strengths = np.asarray([jitter.brightness, jitter.contrast, jitter.saturation])
    brightness, contrast, saturation = 1 + strengths * rng.uniform(-1, 1, 3)
    turn = _turned(2 * math.pi * jitter.hue * rng.uniform(-1, 1))
    matrix = turn @ (saturation * np.eye(3) + (1 - saturation) * _GREY)
    grey = np.full((3, 1), (1 - contrast) * (_GREY @ mean))
    return np.asarray(brightness * np.hstack([contrast * matrix, grey]))


def _turned(angle: float) -> np.ndarray:
    """The hue turned by an angle in radians; brightness and greys stay."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.asarray([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.linalg.solve(_TO_YIQ, turn @ _TO_YIQ)


def change_colors(picture: np.ndarray, colors: np.ndarray) -> None:
    """Maps a picture's colours in place, cut to 0 to 255; uint8 `[h, w, 3]` is rounded, float32
    is not."""
    changed = cv2.transform(picture, colors)
    picture[:] = changed if picture.dtype == np.uint8 else np.clip(changed, 0, 255)
