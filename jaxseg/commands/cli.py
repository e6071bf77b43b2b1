"""The program `jaxseg`: it runs one command and turns errors into messages and exit statuses.

Flags are in `jaxseg.commands.flags`. The modules of the commands are imported where they are used,
since JAX takes seconds and `--help` should not.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxseg.commands import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    The status is 0 for success, 1 for bad input (after a message) or for data with errors, and 75
    for a training that was interrupted, saved its state and can be resumed. Usage errors exit with
    status 2.
    """
    command, overrides = flags.parse(sys.argv[1:] if arguments is None else arguments)
    name, run = _COMMANDS[type(command)]
    processes = getattr(command, "processes", flags.Processes())
    if not processes.several:
        if (processes.num_processes, processes.process_id) != (None, None):
            _exit_for_usage(
                f"{name}: --num-processes and --process-id need --coordinator-address "
                "ADDRESS:PORT, or --distributed"
            )
        return _exit_status(name, lambda: run(command, overrides))
    try:
        status = _exit_status(name, lambda: run(command, overrides), processes)
    except SystemExit as stop:  # a usage error that tyro has printed
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    if status in (1, 2):
        # JAX's regular shutdown waits minutes for the other processes, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _exit_for_usage(message: str) -> NoReturn:
    """Exit with the status of a usage error that tyro does not find."""
    print(f"jaxseg {message}", file=sys.stderr)
    sys.exit(2)


def _exit_status(
    name: str, run: Callable[[], int | None], processes: flags.Processes | None = None
) -> int:
    """Run a command, after joining the other processes if there are several.

    Prints expected errors as one message; other errors pass.
    """
    from jaxseg.distributed import connect, is_process_failure
    from jaxseg.log import log_to_stderr
    from jaxseg.training.preemption import EXIT_STATUS, Preempted

    try:
        with log_to_stderr():
            if processes is not None:
                connect(
                    processes.coordinator_address, processes.num_processes, processes.process_id
                )
            return run() or 0
    except Preempted as notice:
        print(f"jaxseg {name}: {notice}", file=sys.stderr)
        return EXIT_STATUS
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"jaxseg {name}: {_with_notes(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_process_failure(error):
            raise
        print(
            f"jaxseg {name}: another process has died or cannot be reached ({error}). Its own "
            "messages say why; run the same command on all processes to resume from the newest "
            "checkpoint",
            file=sys.stderr,
        )
        return 1


def _with_notes(error: Exception) -> str:
    """Return the message with its notes, such as the image at which the error occurred."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _demo(command: flags.Demo, _: Sequence[str]) -> None:
    from jaxseg.commands.demo import run_demo

    run_demo(command.out, command.model)


def _train(command: flags.Train, overrides: Sequence[str]) -> None:
    from jaxseg.commands import train as train_command
    from jaxseg.commands.dry_run import dry_run
    from jaxseg.commands.override import override
    from jaxseg.experiment import load_experiment

    experiment = load_experiment(command.experiment)
    experiment = override(experiment, overrides, prog=f"jaxseg train {command.experiment}")
    if command.dry_run:
        dry_run(experiment)
    elif command.workdir is None:
        raise ValueError("give --workdir DIR, a folder for checkpoints and curves (or --dry-run)")
    else:
        train_command.train(experiment, command.workdir)


def _eval(command: flags.Eval, _: Sequence[str]) -> None:
    from jaxseg.commands.eval import evaluate

    evaluate(
        command.workdir,
        command.out or command.workdir / "eval",
        data_folder=command.data,
        split=command.split,
        step=command.step,
        ema=not command.no_ema,
    )


def _predict(command: flags.Predict, _: Sequence[str]) -> None:
    from jaxseg.commands.predict import predict

    if not command.images:
        _exit_for_usage("predict: give at least one IMAGE")
    predict(command.workdir, command.images, command.out, command.threshold)


def _data_check(command: flags.DataCheck, _: Sequence[str]) -> int:
    from jaxseg.commands.data_check import report

    passed = report(
        command.path,
        split=command.split,
        max_objects=command.max_objects,
        bucket=command.bucket,
        ignore_issues=command.ignore_issues,
        out=command.out,
    )
    return 0 if passed else 1


def _data_build(command: flags.DataBuild, _: Sequence[str]) -> None:
    from jaxseg.data.tfds import build

    built = build(command.folder, command.out, command.splits, ignore_issues=command.ignore_issues)
    print(f"built {command.out}" if built else f"nothing to do: {command.out} is complete")


def _weights_import(command: flags.WeightsImport, overrides: Sequence[str]) -> None:
    from jaxseg.commands.weights import import_weights

    import_weights(command.file, command.model, command.out, overrides)


def _weights_export(command: flags.WeightsExport, _: Sequence[str]) -> None:
    from jaxseg.commands.weights import export_weights

    export_weights(command.workdir, command.out)


_COMMANDS: dict[type, tuple[str, Callable[[Any, Sequence[str]], int | None]]] = {
    flags.Demo: ("demo", _demo),
    flags.Train: ("train", _train),
    flags.Eval: ("eval", _eval),
    flags.Predict: ("predict", _predict),
    flags.DataCheck: ("data check", _data_check),
    flags.DataBuild: ("data build", _data_build),
    flags.WeightsImport: ("weights import", _weights_import),
    flags.WeightsExport: ("weights export", _weights_export),
}
"""The name and the function of each command."""


if __name__ == "__main__":
    sys.exit(main())
