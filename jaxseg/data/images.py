"""Image files to pixels."""

import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError


def read_image(path: pathlib.Path) -> np.ndarray:
    """The file as uint8 `[h, w, 3]` RGB.

    Grey and palette images become RGB, alpha is dropped, 16-bit grey is scaled to 8 bits. An
    EXIF rotation is not applied: COCO's annotations refer to the pixels as stored.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):
                pixels = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(pixels[..., None], 3, axis=2)
            if image.mode == "P" and "transparency" in image.info:
                image.info.pop("transparency")  # Pillow warns where it would drop it itself
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}") from error
