"""Arrays that processes share through memory-mapped files instead of copies in a pickle."""

import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping

import numpy as np

_MIN_FILE_BYTES = 1 << 20
"""Arrays of at least this size go to a file."""
_PREFIX = "jaxseg-arrays-"


class SharedArrays:
    """Named read-only arrays. Their pickle holds the small ones, and the file names of the large.

    The first pickle writes the large arrays to files in a temporary folder. Each process that
    unpickles them maps these files into memory, so all share one copy. The folder is removed with
    the object that wrote it, which must outlive the unpickling. Folders that killed processes left
    behind are removed when another one makes its own.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = dict(arrays)
        self._files: dict[str, str] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __getstate__(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        large = [name for name, array in self._arrays.items() if array.nbytes >= _MIN_FILE_BYTES]
        if large and not self._files:
            _remove_orphans()
            # The process id in the name is how `_remove_orphans` finds the owner.
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
            weakref.finalize(self, _remove, folder, os.getpid())
            for name in large:
                np.save(folder / f"{name}.npy", self._arrays[name])
            self._files = {name: str(folder / f"{name}.npy") for name in large}
        small = {name: array for name, array in self._arrays.items() if name not in large}
        return small, self._files

    def __setstate__(self, state: tuple[dict[str, np.ndarray], dict[str, str]]) -> None:
        small, self._files = state
        large = {name: np.load(path, mmap_mode="r") for name, path in self._files.items()}
        self._arrays = small | large


def _remove_orphans() -> None:
    """Remove the folders of processes that no longer run."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not pathlib.Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: pathlib.Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the finalizer, but does not own the folder
        shutil.rmtree(folder, ignore_errors=True)
