"""The ids and sizes of a split's images in a file of their own, beside TFDS's.

So a split can be opened without reading all of its records.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np


def _file(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"{split}.images.npy"


def write_index(
    folder: pathlib.Path, split: str, ids: Sequence[int], sizes: np.ndarray
) -> np.ndarray:
    """Writes, and returns, the index: int64 `[n, 3]`, id, height and width of every image."""
    index = np.concatenate([np.asarray(ids, np.int64)[:, None], sizes], axis=1)
    path = _file(folder, split)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, index)
    partial.rename(path)
    return index


def read_index(folder: pathlib.Path, split: str, count: int) -> np.ndarray | None:
    """The index of a split of `count` images; None where there is none."""
    path = _file(folder, split)
    if not path.is_file():
        return None
    try:
        index = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is broken, delete it: {error}") from error
    if index.shape != (count, 3) or index.dtype != np.int64:
        raise ValueError(f"{path} is not about the {count} images of the split, delete it")
    return index
