"""An index of a split's image ids and sizes, in a file beside TFDS's own.

With it a split is opened without reading all of its records.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxseg.files import atomic_write


def _path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"{split}.images.npy"


def make_index(image_ids: Sequence[int], image_sizes: np.ndarray) -> np.ndarray:
    """Return the index: int64 `[n, 3]`, the id, height and width of each image."""
    ids = np.asarray(image_ids, np.int64)[:, None]
    return np.concatenate([ids, np.asarray(image_sizes, np.int64).reshape(-1, 2)], axis=1)


def write_index(folder: pathlib.Path, split: str, index: np.ndarray) -> None:
    """Write the index of a split."""
    with atomic_write(_path(folder, split)) as partial, partial.open("wb") as file:
        np.save(file, index)  # to a file: it would add .npy to the name of a path


def read_index(folder: pathlib.Path, split: str, count: int) -> np.ndarray | None:
    """Read the index of a split of `count` images; None if there is none.

    Raises ValueError if the file is corrupt or belongs to other data.
    """
    path = _path(folder, split)
    if not path.is_file():
        return None
    try:
        index = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is corrupt, delete it: {error}") from error
    if index.shape != (count, 3) or index.dtype != np.int64:
        raise ValueError(f"{path} does not match the {count} images of the split, delete it")
    return index
