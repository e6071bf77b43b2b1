"""The program `jaxseg`: it runs one command and turns errors into messages and exit statuses.

Flags are in `jaxseg.commands.flags`. The modules of the commands are imported where they are used,
since JAX takes seconds and `--help` should not.
"""

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
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from jaxseg.commands import flags

if TYPE_CHECKING:
    from jaxseg.training.preemption import PreemptionNotice

EXIT_SECONDS = 5.0
"""Longest time that a stopped program waits for its threads, some of which may hang on a disk, and
the time that process 0 waits for the others to stop."""
PREEMPTED = 75
"""Exit status after a notice to stop: `EX_TEMPFAIL` of sysexits.h, a temporary failure."""
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as shells report it."""


def program() -> NoReturn:
    """Run `main` as the program `jaxseg`."""
    _stop_at_signals()
    try:
        status = main()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # at once: at its end Python waits for threads, which may hang
    if status == PREEMPTED:
        # A second signal would end the process by another status.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        ending = threading.Timer(EXIT_SECONDS, os._exit, (status,))
        ending.daemon = True
        ending.start()
    sys.exit(status)


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
    """Run one command and return its exit status.

    The status is 0 for success, 1 for bad input (after a message) or for data with errors, and 75
    for a command that was interrupted and can be run again; a training has then saved its state.
    Usage errors exit with status 2.
    """
    _escape_unencodable_output()
    arguments, overrides = flags.parse(sys.argv[1:] if arguments is None else arguments)
    command = _COMMANDS[type(arguments)]
    processes = getattr(arguments, "processes", flags.Processes())
    problem = processes.problem()
    if problem:
        _exit_for_usage(f"{command.name}: {problem}")
    if not processes.several:
        return _exit_status(command, arguments, overrides, processes)[0]
    from jaxseg.distributed import process_index

    try:
        status, together = _exit_status(command, arguments, overrides, processes)
    except Exception:
        traceback.print_exc()
        status, together = 1, False
    if not together:
        if status == PREEMPTED and process_index() == 0:
            # JAX aborts the others as soon as process 0 ends; they may be about to end themselves.
            time.sleep(EXIT_SECONDS)
        # JAX's regular shutdown waits minutes for the other processes, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _escape_unencodable_output() -> None:
    """Let prints escape the characters, of class and file names, that the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caller may have replaced it
            stream.reconfigure(errors="backslashreplace")


def _exit_for_usage(message: str) -> NoReturn:
    """Exit with the status of a usage error that tyro does not find."""
    print(f"jaxseg {message}", file=sys.stderr)
    sys.exit(2)


def _exit_status(
    command: "_Command",
    arguments: Any,
    overrides: Sequence[str],
    processes: flags.Processes,
) -> tuple[int, bool]:
    """Run a command, and join the other processes before if there are several.

    Usage errors exit, and expected errors are printed as one message; other errors pass.

    Returns:
        The status, and whether all processes end with it together.
    """
    from jaxseg.distributed import connect
    from jaxseg.log import log_to_stderr

    def join() -> None:
        if processes.several:
            connect(processes.coordinator_address, processes.num_processes, processes.process_id)

    with log_to_stderr():
        try:
            run = command.prepare(arguments, overrides)
        except (ValueError, OSError) as error:
            _report(command, _with_notes(error))
            join()  # the others end as soon as this process does, but wait for one that is absent
            return 1, False
        except Exception:
            join()
            raise
        return _run_status(command, run, join)


def _run_status(command: "_Command", run: "_Run", join: Callable[[], None]) -> tuple[int, bool]:
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
            _report(command, _with_notes(error))
            return 1, False
        except RuntimeError as error:
            if not is_process_failure(error):
                raise
            _report(
                command,
                f"another process has died or cannot be reached ({error}). Its own messages say "
                "why; run the same command on all processes to resume from the newest checkpoint",
            )
            # A cluster that stops all processes may kill another one first.
            return PREEMPTED if notice.reason else 1, False


def _exit_interrupted() -> NoReturn:
    """End the program at the second Ctrl-C, whatever hangs."""
    os._exit(INTERRUPTED)


def _report(command: "_Command", message: object) -> None:
    print(f"jaxseg {command.name}: {message}", file=sys.stderr, flush=True)


def _with_notes(error: Exception) -> str:
    """Return the message with its notes, such as the image at which the error occurred."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


_Run = Callable[["PreemptionNotice"], int | None]
"""A command that is ready to run."""


class _Command(NamedTuple):
    name: str
    prepare: Callable[[Any, Sequence[str]], _Run]
    """Takes the flags and the overrides. It checks what can be checked without JAX's devices, and
    before other processes are joined."""
    stoppable: bool = False
    """Whether SIGTERM, SIGUSR1 and Ctrl-C become a notice; otherwise they end the process."""


def _demo(command: flags.Demo, _: Sequence[str]) -> _Run:
    from jaxseg.commands.demo import run_demo

    return lambda notice: run_demo(command.out, command.model, notice)


def _train(command: flags.Train, overrides: Sequence[str]) -> _Run:
    from jaxseg.commands import train as train_command
    from jaxseg.commands.dry_run import dry_run
    from jaxseg.commands.override import override
    from jaxseg.experiment import load_experiment

    experiment = load_experiment(command.experiment)
    experiment = override(experiment, overrides, prog=f"jaxseg train {command.experiment}")
    if command.dry_run:
        return _until_notice(lambda: dry_run(experiment))
    workdir = command.workdir
    if workdir is None:
        _exit_for_usage(
            "train: give --workdir DIR, a folder for checkpoints and curves (or --dry-run)"
        )
    return lambda notice: train_command.train(experiment, workdir, notice, fork=command.fork)


def _until_notice(run: Callable[[], int | None]) -> _Run:
    """Return the command that a notice may abort at any point."""

    def run_until(notice: "PreemptionNotice") -> int | None:
        with notice.raising():
            return run()

    return run_until


def _eval(command: flags.Eval, _: Sequence[str]) -> _Run:
    from jaxseg.commands.eval import evaluate

    def run(notice: "PreemptionNotice") -> None:
        evaluate(
            command.workdir,
            command.out or command.workdir / "eval",
            data_folder=command.data,
            split=command.split,
            step=command.step,
            ema=not command.no_ema,
            allow_modules=command.allow_module,
            notice=notice,
        )

    return run


def _predict(command: flags.Predict, _: Sequence[str]) -> _Run:
    from jaxseg.commands.predict import predict

    if not command.images:
        _exit_for_usage("predict: give at least one IMAGE")
    return _until_notice(
        lambda: predict(
            command.workdir,
            command.images,
            command.out,
            command.threshold,
            masks=command.masks,
            every=command.every,
            batch_size=command.batch_size,
            allow_modules=command.allow_module,
        )
    )


def _data_check(command: flags.DataCheck, _: Sequence[str]) -> _Run:
    from jaxseg.commands.data_check import report

    def run(_: "PreemptionNotice") -> int:
        passed = report(
            command.path,
            split=command.split,
            max_objects=command.max_objects,
            bucket=command.bucket,
            ignore_issues=command.ignore_issues,
            allow_outside_files=command.allow_outside_files,
            out=command.out,
        )
        return 0 if passed else 1

    return run


def _data_build(command: flags.DataBuild, _: Sequence[str]) -> _Run:
    from jaxseg.data.tfds import build

    def run(_: "PreemptionNotice") -> None:
        built = build(
            command.folder,
            command.out,
            command.splits,
            ignore_issues=command.ignore_issues,
            allow_outside_files=command.allow_outside_files,
        )
        print(f"built {command.out}" if built else f"nothing to do: {command.out} is complete")

    return run


def _weights_import(command: flags.WeightsImport, overrides: Sequence[str]) -> _Run:
    from jaxseg.commands.weights import import_weights

    return lambda _: import_weights(
        command.file,
        command.model,
        command.out,
        overrides,
        allow_modules=command.allow_module,
    )


def _weights_export(command: flags.WeightsExport, _: Sequence[str]) -> _Run:
    from jaxseg.commands.weights import export_weights

    return lambda _: export_weights(
        command.workdir, command.out, names=command.names, allow_modules=command.allow_module
    )


_COMMANDS: dict[type, _Command] = {
    flags.Demo: _Command("demo", _demo, stoppable=True),
    flags.Train: _Command("train", _train, stoppable=True),
    flags.Eval: _Command("eval", _eval, stoppable=True),
    flags.Predict: _Command("predict", _predict, stoppable=True),
    flags.DataCheck: _Command("data check", _data_check),
    flags.DataBuild: _Command("data build", _data_build),
    flags.WeightsImport: _Command("weights import", _weights_import),
    flags.WeightsExport: _Command("weights export", _weights_export),
}
