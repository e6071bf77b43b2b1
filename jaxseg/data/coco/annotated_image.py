"""Read an image that a COCO-format file lists."""

import pathlib

import numpy as np

from jaxseg.data.images import read_image


def read_annotated_image(
    path: pathlib.Path, size: tuple[int, int], image_id: int, annotations: pathlib.Path
) -> np.ndarray:
    """Return the image as uint8 RGB `[h, w, 3]`.

    Args:
        path: the image.
        size: the `(height, width)` that it must have.
        image_id: its id.
        annotations: the file that lists it.

    Raises:
        ValueError: what `read_image` raises, with the id and what to do.
    """
    try:
        return read_image(path, size)
    except ValueError as error:
        raise type(error)(
            f"{error} (image id {image_id} of {annotations}). Fix the file, or "
            f"{skip_advice(image_id)}"
        ) from error


def skip_advice(image_id: int) -> str:
    """Return how an image that cannot be read is left out."""
    return (
        "skip the image: in training by --data.source.ignore-image-ids "
        f"{image_id}, also on resume, in other splits by removing it from the annotations"
    )
