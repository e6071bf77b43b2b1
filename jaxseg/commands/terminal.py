"""What the commands may print: colours and bars on a terminal, plain lines in a pipe or file."""

import os
import select
import sys
from typing import TextIO


def is_plain() -> bool:
    """Return whether standard output takes plain text only: no terminal, or NO_COLOR is set.

    https://no-color.org: the variable counts unless it is empty.
    """
    return not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))


def has_reader(stream: TextIO) -> bool:
    """Return whether what is written to `stream` can arrive: False for a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # closed, or replaced by something without a file
        return True


def discard_output() -> None:
    """Send further output to nowhere, so that Python's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if not has_reader(stream):
            os.dup2(nowhere, stream.fileno())
