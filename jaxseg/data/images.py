"""Decode image files to RGB arrays.

EXIF: an image is rotated by its EXIF orientation, as browsers and annotation tools show it. The
exception is an image whose annotated size is that of the original pixels and not of the rotated
ones. A TIFF is always rotated, because Pillow does so on reading.

Channels: grey, palette and CMYK images are converted to RGB, and the channel after these is dropped
as alpha. Of 16-bit values the upper 8 bits are kept. Images of more channels are refused, since
which three of them to show is the user's choice, and so are pixels of 32 bits and floats.

Terms:
    original  as stored in the file, before the rotation
    rotated   after the rotation (or reflection) by the EXIF orientation
"""

import contextlib
import io
import pathlib
import struct
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxseg.files import open_regular

MAX_PIXELS = 89_478_485
"""Largest number of pixels of an image, a quarter of a gigabyte as RGB. Pillow warns above it."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name says (MPO is a JPEG). Some of Pillow's others
start programs, such as Ghostscript for EPS."""
IMAGE_SUFFIXES = frozenset((
    ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo",
    ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""The endings of the files that are taken from a folder. A file that is given by its own name may
have any."""
_SAMPLES_PER_PIXEL = 277
"""The tag of a TIFF with its number of channels."""
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Undoes each orientation (EXIF 2.3, tag 274); orientations from 5 on swap height and width."""
_PILLOW_LIMIT_LOCK = threading.Lock()
_Stream = io.BytesIO | io.BufferedReader


class ImageSizeError(ValueError):
    """An image does not have the size it should have."""


def read_image(path: pathlib.Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image file as RGB, uint8 `[h, w, 3]`.

    Channels and 16-bit values are converted by the module's rule; of several frames the first is
    read.

    Args:
        path: the file.
        size: the `(height, width)` that the image must have; it also decides about EXIF rotation
            (see the module).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file, has none of `FORMATS`, cannot be decoded, has more than
            `MAX_PIXELS`, has more than four channels, or has pixels of 32 bits or floats, whose
            range is unknown.
        ImageSizeError: it does not have that size.
    """
    return decode_image(path, str(path), size)


def decode_image(
    file: pathlib.Path | io.BytesIO, name: str, size: tuple[int, int] | None
) -> np.ndarray:
    """Decode an image as `read_image` does, also from memory; errors call it `name`."""
    with _image(file, name) as image:
        original = image.height, image.width
        pixels = to_rgb(image)
        orientation = _orientation(image)
    rotated = original[::-1] if orientation > 4 else original
    if size is not None and size not in (rotated, original):
        note = "" if rotated == original else f" ({rotated[1]}x{rotated[0]} after EXIF rotation)"
        raise ImageSizeError(
            f"{name} is {original[1]}x{original[0]} pixels{note}, not {size[1]}x{size[0]}"
        )
    if orientation == 1 or size not in (None, rotated):
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_ROTATIONS[orientation]))


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """Return the `(height, width)` that `read_image` returns, of a JPEG from its header alone.

    Other formats are decoded, since they may store the orientation behind the pixels. Raises what
    `read_image` raises.
    """
    with _image(path, str(path)) as image:
        if image.format in ("JPEG", "MPO"):
            size = image.height, image.width
            return size[::-1] if _orientation(image) > 4 else size
    height, width, _ = read_image(path).shape
    return height, width


def read_labels(file: pathlib.Path | io.BytesIO, name: str | None = None) -> np.ndarray:
    """Read a label image: the value of each pixel, int32 `[h, w]`, without any conversion.

    Of a palette image it is the index, of a colour image `red << 16 | green << 8 | blue`; alpha is
    dropped. Raises what `read_image` raises, and ValueError for JPEG, which changes values; errors
    call the file `name`.
    """
    with _image(file, name or str(file)) as image:
        if image.format in ("JPEG", "MPO", "JPEG2000"):
            raise ValueError("JPEG changes the values of a mask: save it as PNG")
        image.load()
        if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.int32)
        if image.mode == "LA":
            return np.asarray(image)[..., 0].astype(np.int32)
        if image.mode in ("RGB", "RGBA"):
            red, green, blue = np.moveaxis(np.asarray(image)[..., :3].astype(np.int32), 2, 0)
            return red << 16 | green << 8 | blue
        raise ValueError(f"Pillow's mode {image.mode} is no mask: save it as 8 or 16-bit PNG")


@contextlib.contextmanager
def _image(file: pathlib.Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Open an image; raise ValueError with its name for whatever fails until it is closed."""
    try:
        with _stream(file) as stream, _open(stream) as image:
            if image.height * image.width > MAX_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} are more than {MAX_PIXELS} pixels: shrink it"
                )
            channels = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
            if channels > 4:  # Pillow would drop those after the third
                raise ValueError(f"it has {channels} channels: save the three to use as RGB")
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no image file {name}") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} cannot be decoded as an image: it is not a valid {', '.join(FORMATS)} of 1 "
            "(grey), 3 (RGB) or 4 channels (RGBA, CMYK) with 8 or 16 bits; convert it to one"
        ) from error
    except (Exception, Warning) as error:  # Pillow's decoders raise many types
        raise ValueError(f"{name} cannot be decoded as an image: {error}") from error


def _stream(file: pathlib.Path | io.BytesIO) -> contextlib.AbstractContextManager[_Stream]:
    return contextlib.nullcontext(file) if isinstance(file, io.BytesIO) else open_regular(file)


def _open(file: _Stream) -> Image.Image:
    """Open a file without Pillow's warning about many pixels; the caller checks their number."""
    # The limit is a global of Pillow: the lock keeps threads from restoring each other's value.
    with _PILLOW_LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image of any mode to RGB, uint8 `[h, w, 3]`, as `read_image` does.

    Raises ValueError for pixels of 32 bits or floats.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (Pillow's mode {image.mode}): convert it to 8")
    if image.mode.startswith("I;16"):
        pixels = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=2)
    image.load()
    image.info.pop("transparency", None)  # else Pillow warns that it drops it
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the EXIF data is missing or malformed.

    Pillow's own reader warns about the malformed EXIF data of many photographs.
    """
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
            tag, data_type = struct.unpack_from(f"{order}HH", data, entry)
            if (tag, data_type) == (274, 3):  # orientation, 16-bit
                (value,) = struct.unpack_from(f"{order}H", data, entry + 8)
                return value if value in _ROTATIONS else 1
    except struct.error:
        pass
    return 1
