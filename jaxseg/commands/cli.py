"""The command `jaxseg`: which job a command is, and what its exit status means.

Flags are in `jaxseg.commands.flags`; the commands' modules are imported where they are used, since
JAX takes seconds and `--help` should not.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from jaxseg.commands.flags import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Its exit status is 0, 1 after a message about bad input or for bad data,
    and 75 when a training was told to stop, saved, and can go on."""
    parser = make_parser()
    options, fields = parser.parse_known_args(arguments)
    name = " ".join(filter(None, (options.command, getattr(options, "job", None))))
    if fields and name not in ("train", "weights import"):
        parser.error(f"unrecognized arguments: {' '.join(fields)}")
    options.fields = fields
    several = getattr(options, "distributed", False) or bool(getattr(options, "coordinator", None))
    numbers = (getattr(options, "hosts", None), getattr(options, "host", None))
    if not several and numbers != (None, None):
        parser.error(
            "--num-processes and --process-id need --coordinator-address ADDRESS:PORT, or "
            "--distributed"
        )
    if not several:
        return _run(name, options)
    try:
        status = _run(name, options, several=True)
    except BaseException:
        traceback.print_exc()
        status = 1
    if status == 1:
        # JAX's orderly end waits minutes for the other hosts, which wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(name: str, options: argparse.Namespace, *, several: bool = False) -> int:
    """Does the job and turns what may go wrong into a message and an exit status."""
    from jaxseg.distributed import connect, is_process_failure
    from jaxseg.training.preemption import EXIT_STATUS, Preempted

    try:
        if several:
            connect(options.coordinator_address, options.num_processes, options.process_id)
        return _JOBS[name](options) or 0
    except Preempted as notice:
        print(f"jaxseg {name}: {notice}", file=sys.stderr)
        return EXIT_STATUS
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"jaxseg {name}: {_told(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_process_failure(error):
            raise
        print(
            f"jaxseg {name}: another host has died or cannot be reached ({error}). Its own "
            "messages say why; the same command on all hosts goes on from the newest checkpoint",
            file=sys.stderr,
        )
        return 1


def _told(error: Exception) -> str:
    """The message with its notes, such as the image at which it happened."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _demo(options: argparse.Namespace) -> None:
    from jaxseg.commands.demo import run_demo

    run_demo(options.out, options.model)


def _train(options: argparse.Namespace) -> None:
    from jaxseg.commands import train as train_command
    from jaxseg.commands.dry_run import dry_run
    from jaxseg.experiment import load_experiment, override

    experiment = override(load_experiment(options.experiment), options.fields)
    if options.dry_run:
        dry_run(experiment)
    elif options.workdir is None:
        raise ValueError("give --workdir DIR, a folder for checkpoints and curves (or --dry-run)")
    else:
        train_command.train(experiment, options.workdir)


def _eval(options: argparse.Namespace) -> None:
    from jaxseg.commands.eval import evaluate

    evaluate(
        options.workdir,
        options.out or options.workdir / "eval",
        data_folder=options.data,
        split=options.split,
        step=options.step,
        average=not options.no_ema,
    )


def _predict(options: argparse.Namespace) -> None:
    from jaxseg.commands.predict import predict

    predict(options.workdir, options.images, options.out, options.threshold)


def _data_check(options: argparse.Namespace) -> int:
    from jaxseg.commands import data_check as health_report

    healthy = health_report.report(
        options.path,
        split=options.split,
        max_objects=options.max_objects,
        bucket=tuple(options.bucket) if options.bucket else None,
        ignore_issues=options.ignore_issues,
        out=options.out,
    )
    return 0 if healthy else 1


def _data_build(options: argparse.Namespace) -> None:
    from jaxseg.data.tfds import build

    built = build(options.folder, options.out, options.splits, ignore_issues=options.ignore_issues)
    print(f"{'built' if built else 'nothing to do, there is already'} {options.out}")


def _weights_import(options: argparse.Namespace) -> None:
    from jaxseg.commands import weights

    weights.import_weights(options.file, options.model, options.out, options.fields)


def _weights_export(options: argparse.Namespace) -> None:
    from jaxseg.commands import weights

    weights.export_weights(options.workdir, options.out)


_JOBS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "demo": _demo,
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "data check": _data_check,
    "data build": _data_build,
    "weights import": _weights_import,
    "weights export": _weights_export,
}


if __name__ == "__main__":
    sys.exit(main())
