"""Arrays that go to other processes through the file system rather than through a pickle."""

import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping

import numpy as np

_LARGE = 1 << 20
"""Bytes from which on an array is worth a file."""


_PREFIX = "jaxseg-arrays-"


class SharedArrays:
    """Named arrays, read only. A pickle of them has the small ones and the files of the large.

    The first pickle writes the large arrays to a temporary folder, whose files every process that
    receives one maps into memory: all share one copy. The folder goes with the object that wrote
    it, which must outlive the unpickling; what a killed process left behind goes when another one
    makes a folder of its own.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = dict(arrays)
        self._files: dict[str, str] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __getstate__(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        large = [name for name, array in self._arrays.items() if array.nbytes >= _LARGE]
        if large and not self._files:
            _remove_orphans()
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
    """Folders of processes that were killed: theirs is the number in the name."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not pathlib.Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: pathlib.Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child has the finalizer too, but not the folder
        shutil.rmtree(folder, ignore_errors=True)
