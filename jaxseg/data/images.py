"""Image files to pixels."""

import io
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError


def read_image(path: pathlib.Path) -> np.ndarray:
    """The file as uint8 `[h, w, 3]` RGB.

    Grey and palette images become RGB, alpha is dropped, 16-bit grey is scaled to 8 bits. An
    EXIF rotation is not applied: COCO's annotations refer to the pixels as stored.
    """
    return decode_image(path, str(path))


def decode_image(file: pathlib.Path | io.BytesIO, name: str) -> np.ndarray:
    """As `read_image`, also of a file in memory; an error calls the image by `name`."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):
                pixels = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(pixels[..., None], 3, axis=2)
            if image.mode == "P" and "transparency" in image.info:
                image.info.pop("transparency")  # Pillow warns where it would drop it itself
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be decoded as an image: {error}") from error
