"""A lock that keeps a workdir to one training at a time."""

import errno
import fcntl
import logging
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

from jaxseg.distributed import process_index

_LOG = logging.getLogger(__name__)


@contextmanager
def workdir_lock(workdir: pathlib.Path) -> Iterator[None]:
    """Lock `workdir` until the context is left or the process ends, in whatever way it ends.

    Process 0 of a run holds the lock, in the file `WORKDIR/lock`. On a file system without locks a
    warning is logged and the run continues.

    Raises:
        BlockingIOError: another training holds the lock. Two trainings would delete each other's
            half-written checkpoints.
    """
    if process_index() != 0:
        yield
        return
    with open(workdir / "lock", "w") as file:
        try:
            # `lockf` would unlock as soon as any code of this process closed the file.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(
                    f"another training is running in {workdir}: wait until it ends, or choose "
                    "another --workdir"
                ) from error
            _LOG.warning(
                "%s cannot be locked (%s): make sure that no other training writes there",
                workdir,
                error,
            )
        yield
