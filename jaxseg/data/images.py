"""Image files to pixels.

The rule for EXIF: an image is turned as its EXIF orientation says, as browsers and annotation
tools show it, unless the size that its annotations were made for is that of the pixels as stored
and not that of the turned image. A TIFF is always turned, since Pillow does it on reading.
"""

import io
import pathlib
import struct
import threading

import numpy as np
from PIL import Image

MOST_PIXELS = 89_478_485
"""Of an image: a quarter of a gigabyte as RGB. Where Pillow begins to warn."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation (EXIF 2.3, tag 274); those from 5 on swap height and width."""
_OPENING = threading.Lock()


class ImageSizeError(ValueError):
    """An image is not of the size that it was said to have."""


def read_image(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The file as uint8 `[h, w, 3]` RGB.

    Grey, palette and CMYK images become RGB, alpha is dropped, 16-bit values give their upper 8
    bits, and of several frames the first is read. `size` is the `(height, width)` that the image
    must have; see above for how it decides about EXIF. Raises FileNotFoundError, or ValueError
    for what cannot be decoded, has 32 bits or floats for a pixel (whose range nobody knows), has
    more than `MOST_PIXELS` or not that size.
    """
    return decode_image(path, str(path), size)


def decode_image(
    file: pathlib.Path | io.BytesIO, name: str, size: tuple[int, int] | None
) -> np.ndarray:
    """As `read_image`, also of a file in memory; an error calls the image by `name`."""
    try:
        with _open(file) as image:
            stored = image.height, image.width
            if image.height * image.width > MOST_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} are more than {MOST_PIXELS} pixels: shrink it"
                )
            pixels = _to_rgb(image)
            orientation = _orientation(image)
    except FileNotFoundError:
        raise
    except (Exception, Warning) as error:  # Pillow's readers raise whatever they stumble on
        raise ValueError(f"{name} cannot be decoded as an image: {error}") from error
    shown = stored[::-1] if orientation > 4 else stored
    if size is not None and size not in (shown, stored):
        turned = "" if shown == stored else f" ({shown[1]}x{shown[0]} as EXIF turns it)"
        raise ImageSizeError(
            f"{name} is {stored[1]}x{stored[0]} pixels{turned}, not {size[1]}x{size[0]}"
        )
    if orientation == 1 or size not in (None, shown):
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))


def _open(file: pathlib.Path | io.BytesIO) -> Image.Image:
    """The opened file, without a warning of its pixels: our callers look at their number."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (Pillow's mode {image.mode}): convert it to 8")
    if image.mode.startswith("I;16"):
        pixels = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=2)
    image.load()
    image.info.pop("transparency", None)  # Pillow warns where it would drop it itself
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8. Pillow's reader warns of the broken EXIF of many photographs."""
    exif = image.info.get("exif", b"")
    if not isinstance(exif, bytes):
        return 1
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, entry)
            if (tag, kind) == (274, 3):
                (value,) = struct.unpack_from(f"{order}H", data, entry + 8)
                return value if value in _TURNS else 1
    except struct.error:
        pass
    return 1
