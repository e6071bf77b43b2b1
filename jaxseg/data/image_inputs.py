"""Images as users give them: arrays, Pillow images, files, folders and glob patterns."""

import glob
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.data.image_files import ImageOrPath
from jaxseg.data.images import IMAGE_SUFFIXES, to_rgb


def list_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the image files of a folder in the order of their names, not those of its subfolders.

    Hidden files are left out. Raises ValueError if there are none.
    """
    found = [path for path in folder.iterdir() if is_listed(path, IMAGE_SUFFIXES)]
    if not found:
        raise ValueError(
            f"the folder {folder} has no image files ({', '.join(sorted(IMAGE_SUFFIXES))}); those "
            f"of its subfolders are found by the pattern '{folder}/**'"
        )
    return sorted(found)


def is_listed(path: pathlib.Path, suffixes: frozenset[str]) -> bool:
    """Return whether a path is a file with one of the endings, in any case, and not hidden."""
    listed = path.suffix.lower() in suffixes and not path.name.startswith(".")
    return listed and path.is_file()


def expand_path(
    path: pathlib.Path, suffixes: frozenset[str] = IMAGE_SUFFIXES
) -> Sequence[pathlib.Path]:
    """Return the files of a file's path, a folder or a glob pattern, sorted by name.

    Of a folder, these are its images; of a pattern, in which `**` stands for any folders, the files
    with one of the endings `suffixes`. A path that exists is not a pattern. Raises
    FileNotFoundError if a pattern matches nothing, ValueError for a folder without images.
    """
    if path.is_dir():
        return list_folder(path)
    if not _is_pattern(path):
        return [path]
    found = [pathlib.Path(name) for name in glob.glob(str(path), recursive=True)]
    files = sorted(file for file in found if is_listed(file, suffixes))
    if not files:
        raise FileNotFoundError(f"no image file matches the pattern {path}")
    return files


def _is_pattern(path: pathlib.Path) -> bool:
    """Return whether a path is a glob pattern; one that exists is not."""
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def read_input(image: Any) -> ImageOrPath:
    """Return a path or the RGB pixels of one image that a user gave.

    Args:
        image: a path, a Pillow image, or an array: uint8 `[h, w, 3]`, RGB. A Pillow image is not
            rotated by its EXIF orientation, so that masks have its size.

    Raises:
        ValueError: it is an array of another dtype or shape; the message says how to convert it.
        TypeError: it is something else.
    """
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).expanduser()
    if isinstance(image, Image.Image):
        return to_rgb(image.copy())
    if not hasattr(image, "__array__"):
        raise TypeError(
            f"an image is a path, a Pillow image or an array, not a {type(image).__name__}"
        )
    array = np.asarray(image)
    problem = _problem(array)
    if problem:
        raise ValueError(f"the image is {array.dtype} {list(array.shape)}: {problem}")
    return array


def _problem(array: np.ndarray) -> str:
    """Return what is wrong with an image and how to convert it, "" if nothing is."""
    shape = array.shape
    if array.ndim == 4:
        return "give several images as a list, `list(images)`"
    if array.ndim == 2:
        return "grey needs three channels, `np.stack([image] * 3, axis=-1)`"
    if array.ndim != 3:
        return "it must be uint8 [h, w, 3], RGB"
    if shape[2] == 4:
        return "leave out the alpha channel, `image[..., :3]`"
    if shape[2] == 1:
        return "grey needs three channels, `np.repeat(image, 3, axis=-1)`"
    if shape[2] != 3 and shape[0] == 3:
        return "channels must come last, `np.moveaxis(image, 0, -1)`"
    if shape[2] != 3:
        return "it must have three channels, RGB"
    if array.dtype.kind == "f":
        return "give pixels from 0 to 255 as uint8; from 0 to 1, `(image * 255).astype(np.uint8)`"
    if array.dtype != np.uint8:
        return "give pixels from 0 to 255, `image.astype(np.uint8)`"
    if not array.size:
        return "it has no pixels"
    return ""


def is_single(images: Any) -> bool:
    """Return whether a user gave one image, and not a list, a folder or a pattern."""
    if isinstance(images, str | os.PathLike):
        path = pathlib.Path(images).expanduser()
        return not path.is_dir() and not _is_pattern(path)
    return not isinstance(images, list | tuple)


def read_inputs(images: Any) -> list[ImageOrPath]:
    """Return the images that a user gave: one, a list of such, a folder or a glob pattern.

    Raises what `read_input` and `expand_path` raise.
    """
    if isinstance(images, list | tuple):
        return [read_input(image) for image in images]
    one = read_input(images)
    return list(expand_path(one)) if isinstance(one, pathlib.Path) else [one]
