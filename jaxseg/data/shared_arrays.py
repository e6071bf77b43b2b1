"""Arrays that processes share through memory-mapped files instead of copies in a pickle."""

import fcntl
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
_LOCK = "owner.lock"


class SharedArrays:
    """Named read-only arrays. Their pickle holds the small ones, and the file names of the large.

    The first pickle writes the large arrays to files in a temporary folder. Each process that
    unpickles them maps these files into memory, so all share one copy. The folder is removed with
    the object that wrote it, which must outlive the unpickling. Folders that killed processes left
    behind are removed when another one makes its own: those whose lock nobody holds any more.
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
            folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
            weakref.finalize(self, _remove, folder, os.getpid(), _lock(folder))
            for name in large:
                np.save(folder / f"{name}.npy", self._arrays[name])
            self._files = {name: str(folder / f"{name}.npy") for name in large}
        small = {name: array for name, array in self._arrays.items() if name not in large}
        return small, self._files

    def __setstate__(self, state: tuple[dict[str, np.ndarray], dict[str, str]]) -> None:
        small, self._files = state
        large = {name: np.load(path, mmap_mode="r") for name, path in self._files.items()}
        self._arrays = small | large


def _lock(folder: pathlib.Path) -> int | None:
    """Hold a lock on a new folder until the descriptor is closed or the process ends.

    The lock tells other processes that the owner lives, in whatever container or machine it is,
    where process ids would not. The file gets its name once it is locked. Returns None on a file
    system without locks, where the folder has no lock file and is left to its owner alone.
    """
    unlocked = folder / f"{_LOCK}.new"
    descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    unlocked.rename(folder / _LOCK)
    return descriptor


def _remove_orphans() -> None:
    """Remove the folders whose owner process has ended."""
    for path in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with open(path, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # the owner lives, or the folder is another user's, or was just removed
            continue


def _remove(folder: pathlib.Path, owner: int, lock: int | None) -> None:
    if os.getpid() == owner:  # a forked child inherits the finalizer, but does not own the folder
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
