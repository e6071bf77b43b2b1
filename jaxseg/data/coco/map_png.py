"""Read the PNGs of panoptic and semantic maps without any conversion of their values."""

import io
import pathlib
from collections.abc import Container

import numpy as np

from jaxseg.data.images import read_labels
from jaxseg.files import open_regular

GREY, RGB, PALETTE = 0, 2, 3
"""Colour types of a PNG."""
_COLOR_TYPES = {GREY: "grey", RGB: "RGB", PALETTE: "palette", 4: "grey and alpha", 6: "RGBA"}


class PngError(ValueError):
    """A file that is no map, with the kind of the issue."""

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


def read_map(
    file: pathlib.Path | io.BytesIO,
    name: str,
    size: tuple[int, int],
    *,
    color_types: Container[int],
    kinds: str,
    expected: str,
) -> np.ndarray:
    """Read the values as `read_labels` does, int32 `[h, w]`.

    Args:
        file: the file, or its bytes.
        name: how errors call it.
        size: the `(height, width)` that it must have.
        color_types: the colour types that it may have, with 8 bits.
        kinds: what the kinds of issues begin with.
        expected: what such a map is, for errors.

    Raises:
        PngError: it cannot be decoded, or is of another type or size.
    """
    try:
        header = file.getvalue()[:26] if isinstance(file, io.BytesIO) else _read_start(file)
        if not header.startswith(b"\x89PNG") or len(header) < 26:
            raise PngError(f"{kinds}-type", f"{name} is not a PNG")
        depth, color_type = header[24], header[25]
        if depth != 8 or color_type not in color_types:
            color = _COLOR_TYPES.get(color_type, "unknown")
            message = f"{name} is a PNG of {depth} bits, {color}: {expected}"
            raise PngError(f"{kinds}-type", message)
        values = read_labels(file, name)
    except (ValueError, OSError) as error:
        if isinstance(error, PngError):
            raise
        raise PngError(f"{kinds}-unreadable", str(error)) from error
    if values.shape != size:
        height, width = values.shape
        message = f"{name} is {width}x{height}, the image {size[1]}x{size[0]}"
        raise PngError(f"{kinds}-size", message)
    return values


def _read_start(path: pathlib.Path) -> bytes:
    with open_regular(path) as file:
        return file.read(26)
