"""The program `jaxseg`: it runs one command and turns errors into messages and exit statuses.

    0    success
    1    bad input or data with errors; a disk, a device's memory or another process that failed;
         a training that diverged. A message on standard error says what and what to do
    2    a usage error: unknown commands, flags and fields, or values of the wrong type
    70   a bug of jaxseg, with its traceback
    75   stopped by SIGTERM, SIGUSR1 or Ctrl-C: the same command resumes
    130  ended at once by a second Ctrl-C, or by the first where there is nothing to save
    141  the reader of the output has gone, as with `jaxseg ... | head`

Shells report a process that a signal has ended as 128 and its number, such as 137 for SIGKILL.
"""

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from jaxseg.terminal import discard_output, has_reader

if TYPE_CHECKING:
    from jaxseg.commands.flags import Processes
    from jaxseg.commands.registry import Command, Run

EXIT_SECONDS = 5.0
"""Longest time that a failed or stopped program waits for its threads, some of which may hang on a
disk, and the time that process 0 waits for the others to stop."""
FAILED = 1
"""Exit status for bad input and for what failed outside of jaxseg."""
BUG = 70
"""Exit status after an error that jaxseg does not expect: `EX_SOFTWARE` of sysexits.h."""
PREEMPTED = 75
"""Exit status after a notice to stop: `EX_TEMPFAIL` of sysexits.h, a temporary failure."""
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as shells report it."""
NO_READER = 141
"""Exit status of a program whose output nobody reads, as shells report SIGPIPE."""


def program() -> NoReturn:
    """Run `main` as the program `jaxseg`, and end the process."""
    ending = _Ending()
    _open_closed_output()
    _stop_at_signals()
    try:
        status = main()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # at once: at its end Python waits for threads, which may hang
    except SystemExit as end:  # of tyro, after help and usage errors
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        status = _status_of_bug(error)
    if status == PREEMPTED:
        # A second signal would end the process by another status.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    ending.exit(status)


def _open_closed_output() -> None:
    """Discard what is printed where the caller has closed standard output or error (`>&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


class _Ending:
    """The end of the process, which no thread and no library delays or turns into another status.

    Python waits for threads, calls the exit handlers of the libraries, and destroys its modules and
    theirs. Threads of XLA, of Grain and of Orbax may still be computing or hang on a disk then.
    """

    def __init__(self) -> None:
        self._status: int | None = None
        atexit.register(self._end)  # handlers run in reverse order: this one last

    def exit(self, status: int) -> NoReturn:
        """End the process with `status`, after at most `EXIT_SECONDS` unless it is 0."""
        status = self._status = _flush(status)
        if status:
            timer = threading.Timer(EXIT_SECONDS, os._exit, (status,))
            timer.daemon = True
            timer.start()
        sys.exit(status)

    def _end(self) -> None:
        if self._status is not None:
            os._exit(_flush(self._status))


def _flush(status: int) -> int:
    """Write what is buffered; return `status`, or `NO_READER` if nobody reads the output."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        lost = _lost_reader(error)
        discard_output()
        if not lost:  # a full disk, for one
            print(f"jaxseg: the output could not be written: {error}", file=sys.stderr, flush=True)
        return NO_READER if lost else status or FAILED
    return status


def _lost_reader(error: Exception) -> bool:
    """Return whether `error` occurred because nobody reads the output."""
    return isinstance(error, BrokenPipeError) and not all(map(has_reader, (sys.stdout, sys.stderr)))


def _status_of_bug(error: Exception) -> int:
    """Print an unexpected error; return the exit status for it."""
    if _lost_reader(error):
        discard_output()
        return NO_READER
    traceback.print_exception(error)
    print(
        "jaxseg: this is a bug. Please report it with the lines above and the output of "
        "`jaxseg env`",
        file=sys.stderr,
        flush=True,
    )
    return BUG


def _stop_at_signals() -> None:
    """End at SIGTERM and SIGUSR1 with the status of a command that can be run again.

    It holds where the command does not handle signals itself: before it starts, and after its end.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        name = signal.Signals(number).name
        os.write(2, f"\njaxseg: stopped by {name}: run the same command again\n".encode())
        os._exit(PREEMPTED)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (see the top of this file).

    Usage errors exit with status 2. Errors that jaxseg does not expect pass, unless there are
    several processes.
    """
    _escape_unencodable_output()
    words = sys.argv[1:] if arguments is None else arguments
    if list(words) == ["--version"]:  # at once, without the parser
        from jaxseg import __version__

        print(f"jaxseg {__version__}")
        return 0
    from jaxseg.commands import flags, parser
    from jaxseg.commands.registry import COMMANDS, exit_for_usage

    arguments, overrides = parser.parse(words)
    command = COMMANDS[type(arguments)]
    processes = getattr(arguments, "processes", flags.Processes())
    problem = processes.problem()
    if problem:
        exit_for_usage(f"{command.name}: {problem}")
    if command.without_jax:
        return _run_without_jax(command, arguments)
    if not processes.several:
        return _exit_status(command, arguments, overrides, processes)[0]
    return _run_as_one_of_several(command, arguments, overrides, processes)


def _escape_unencodable_output() -> None:
    """Let prints escape the characters, of class and file names, that the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caller may have replaced it
            stream.reconfigure(errors="backslashreplace")


def _run_without_jax(command: "Command", arguments: Any) -> int:
    """Run a command that needs no JAX; return its exit status."""
    try:
        return command.prepare(arguments, ())(None) or 0
    except (ValueError, OSError) as error:
        return _report_failure(command, error)


def _run_as_one_of_several(
    command: "Command", arguments: Any, overrides: Sequence[str], processes: "Processes"
) -> int:
    """Run a command in one process of a run; return its exit status, or end the process.

    The process ends at once unless all do together: they would wait for each other.
    """
    from jaxseg.distributed import process_index

    try:
        status, together = _exit_status(command, arguments, overrides, processes)
    except Exception as error:
        status, together = _status_of_bug(error), False
    if not together:
        if status == PREEMPTED and process_index() == 0:
            # JAX aborts the others as soon as process 0 ends; they may be about to end themselves.
            time.sleep(EXIT_SECONDS)
        # JAX's regular shutdown waits minutes for the other processes, which wait for this one.
        os._exit(_flush(status))
    return status


def _exit_status(
    command: "Command", arguments: Any, overrides: Sequence[str], processes: "Processes"
) -> tuple[int, bool]:
    """Run a command, and join the other processes before if there are several.

    Usage errors exit, and expected errors are printed as one message; other errors pass.

    Returns:
        The status, and whether all processes end with it together.
    """
    from jaxseg.commands.compilation_cache import set_compilation_cache
    from jaxseg.distributed import connect
    from jaxseg.log import log_to_stderr

    def join() -> None:
        if processes.several:
            connect(processes.coordinator_address, processes.num_processes, processes.process_id)

    with log_to_stderr():
        if hasattr(arguments, "no_compilation_cache"):  # the commands that compile
            set_compilation_cache(not arguments.no_compilation_cache)
        try:
            run = command.prepare(arguments, overrides)
        except (ValueError, OSError) as error:
            status = _report_failure(command, error)
            join()  # the others end as soon as this process does, but wait for one that is absent
            return status, False
        except Exception:
            join()
            raise
        return _run_status(command, run, join)


def _run_status(command: "Command", run: "Run", join: Callable[[], None]) -> tuple[int, bool]:
    """Join the other processes and run a prepared command; return as `_exit_status` does."""
    from jaxseg.distributed import is_process_failure
    from jaxseg.training.preemption import Preempted, PreemptionNotice, handle_signals

    notice = PreemptionNotice()
    with contextlib.ExitStack() as stack:
        try:
            join()
            if command.stoppable:
                notice = stack.enter_context(handle_signals(_exit_interrupted))
            return run(notice) or 0, True
        except Preempted as stop:
            _report(command, stop)
            return PREEMPTED, not stop.alone
        except (ValueError, OSError, FloatingPointError) as error:
            return _report_failure(command, error), False
        except RuntimeError as error:
            if str(error).startswith("RESOURCE_EXHAUSTED"):
                _report(command, f"{_OUT_OF_MEMORY} ({str(error).partition(chr(10))[0]})")
                return FAILED, False
            if not is_process_failure(error):
                raise
            _report(
                command,
                f"another process has died or cannot be reached ({error}). Its own messages say "
                "why; run the same command on all processes to resume from the newest checkpoint",
            )
            # A cluster that stops all processes may kill another one first.
            return PREEMPTED if notice.reason else FAILED, False


def _exit_interrupted() -> NoReturn:
    """End the program at the second Ctrl-C, whatever hangs."""
    os._exit(INTERRUPTED)


_OUT_OF_MEMORY = (
    "a device is out of memory. To train with less: --train.grad-accum-steps N, "
    "--model.backbone.remat or a smaller --train.batch-size"
)


def _report_failure(command: "Command", error: Exception) -> int:
    """Print the message of an expected error, with its notes; return the exit status.

    A note is, for one, the image at which the error occurred.
    """
    if _lost_reader(error):
        discard_output()
        return NO_READER
    _report(command, " ".join([str(error), *getattr(error, "__notes__", ())]))
    return FAILED


def _report(command: "Command", message: object) -> None:
    print(f"jaxseg {command.name}: {message}", file=sys.stderr, flush=True)
