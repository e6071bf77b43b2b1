"""Output of the commands: colours and bars on a terminal, plain lines in a pipe or file."""

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

PLAIN_SECONDS = 30.0
"""Time between the lines that take the place of a bar where there is no terminal."""

ShowProgress = Callable[[int, int], None]
"""Takes how many are done and how many there are."""


def is_plain() -> bool:
    """Return whether standard output takes plain text only: no terminal, or NO_COLOR is set.

    https://no-color.org: the variable counts unless it is empty.
    """
    return not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR"))


def has_reader(stream: TextIO | io.TextIOBase) -> bool:
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


@contextlib.contextmanager
def progress_bar(what: str, *, active: bool = True) -> Iterator[ShowProgress]:
    """Yield a function that shows the progress of `what`, such as "images read".

    On a terminal it is a bar on standard error, which disappears at the end; elsewhere a line every
    `PLAIN_SECONDS`. Nothing is shown unless `active`, as for processes other than the first.
    """
    if not active:
        yield lambda done, total: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(what) as show:
            yield show
    else:
        yield _lines(what)


def _lines(what: str) -> ShowProgress:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_SECONDS:
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)
            last = time.monotonic()

    return show


@contextlib.contextmanager
def _bar(what: str) -> Iterator[ShowProgress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Where standard output is a file, its lines must not go to the terminal.
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
