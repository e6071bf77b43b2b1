"""The log of the command-line programs.

Every module logs with `logging.getLogger(__name__)`. As a library, jaxseg leaves the handling of
its records to the caller; the commands run inside `log_to_stderr`.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxseg.distributed import process_count, process_index


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Write the records of jaxseg's loggers to standard error as plain lines, within the context.

    Process 0 writes records of level INFO and above, the others only warnings and errors. With
    several processes, warnings and errors begin with the index of the process.
    """
    logger, handler = logging.getLogger("jaxseg"), _StderrHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # The root logger has a handler as soon as Orbax is imported: it would write each line again.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _StderrHandler(logging.Handler):
    """Writes to the `sys.stderr` of the moment, which a caller may replace."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; errors pass, among them `Preempted` from a signal handler."""
        line = self.format(record)
        # `process_index` starts JAX's backend, which must not happen before `connect`.
        if jax.distributed.is_initialized() and process_count() > 1:
            if record.levelno >= logging.WARNING:
                line = f"process {process_index()}: {line}"
            elif process_index() != 0:
                return
        print(line, file=sys.stderr, flush=True)
