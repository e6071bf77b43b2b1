"""One training at a time in a workdir."""

import errno
import fcntl
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

from jaxseg.distributed import process_index
from jaxseg.log import say


@contextmanager
def workdir_lock(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other trainings out of a workdir until the context is left or the process ends, however
    it ends. Of several hosts the first one holds the lock.

    Raises BlockingIOError where another process holds it: two would clear away each other's
    half-written checkpoints. A file system that has no locks is told of and trusted. The lock is
    the process's own: it does not keep a second training in the same process out.
    """
    if process_index() != 0:
        yield
        return
    with open(workdir / "lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(
                    f"another training is at work in {workdir}: wait for it, or give this one "
                    "another --workdir"
                ) from error
            say(f"{workdir} cannot be locked ({error}): see that no other training writes there")
        yield
