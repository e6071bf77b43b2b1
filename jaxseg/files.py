"""Write files atomically, check output paths, and open files that a dataset names."""

import contextlib
import errno
import io
import os
import pathlib
import stat
import tempfile
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, *, sync: bool = False) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`, and move the file written there to `path` at the end.

    Readers see the old file or the whole new one, never a part. If the body raises, `path` is left
    as it was and the temporary file is removed. A killed process leaves a `*.partial` file.

    Args:
        path: the file to create or replace; its folder exists.
        sync: flush the file to the disk before the move, so that a power failure cannot leave an
            empty or truncated `path`.
    """
    partial = _partial(path)
    try:
        yield partial
        if sync:
            fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: pathlib.Path) -> pathlib.Path:
    # A process id would not be unique: processes on several machines may share the folder.
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


def prepare_output_folder(path: pathlib.Path) -> None:
    """Make a folder for results, and write and delete a file there.

    Call it before results are computed. Raises OSError if that fails.
    """
    with _output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def check_output_folder(path: pathlib.Path, flag: str = "--out") -> None:
    """Check that a folder for results can be made and written to, and leave nothing behind.

    Call it before input is read. Raises OSError that names `flag` if that fails.
    """
    with _output_errors(path, flag):
        existing = path.absolute()
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is not a folder")
        with tempfile.TemporaryFile(dir=existing):
            pass


def prepare_output_file(path: pathlib.Path) -> None:
    """Make a file's folder, and check that the file can be written there by `atomic_write`.

    Call it before results are computed. Raises OSError if that fails or `path` is a folder.
    """
    with _output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        partial = _partial(path)
        partial.touch()
        partial.unlink()


@contextlib.contextmanager
def _output_errors(path: pathlib.Path, flag: str = "--out") -> Iterator[None]:
    """Raise an OSError that names the output and says what to do for each one within."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"results cannot be written to {path} ({error.strerror}): choose another {flag}"
        ) from error


def fsync(path: pathlib.Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: pathlib.Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises OSError for anything else; a named pipe, for one, would be waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")
