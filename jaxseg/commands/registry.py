"""The commands of `jaxseg` by their flags: how each is prepared and run.

The modules of the commands are imported where they are used, since JAX takes seconds and `--help`
should not.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from jaxseg.commands import flags
from jaxseg.terminal import progress_bar

if TYPE_CHECKING:
    from jaxseg.training.preemption import PreemptionNotice

Run = Callable[[Any], int | None]
"""A command that is ready to run; it takes the `PreemptionNotice`, or None if it needs no JAX."""


class Command(NamedTuple):
    name: str
    prepare: Callable[[Any, Sequence[str]], Run]
    """Takes the flags and the overrides. It checks what can be checked without JAX's devices, and
    before other processes are joined."""
    stoppable: bool = False
    """Whether SIGTERM, SIGUSR1 and Ctrl-C become a notice; otherwise they end the process."""
    without_jax: bool = False
    """Whether it runs without JAX, which takes seconds to import: within a moment, and with no
    signal, lost process or log to care for."""


def exit_for_usage(message: str) -> NoReturn:
    """Exit with the status of a usage error that tyro does not find."""
    print(f"jaxseg {message}", file=sys.stderr)
    sys.exit(2)


def _demo(command: flags.Demo, _: Sequence[str]) -> Run:
    from jaxseg.commands.demo import run_demo

    return lambda notice: run_demo(command.out, command.model, notice)


def _train(command: flags.Train, overrides: Sequence[str]) -> Run:
    from jaxseg.commands import train as train_command
    from jaxseg.commands.dry_run import dry_run
    from jaxseg.commands.experiments import describe, find_experiment
    from jaxseg.commands.override import override, override_source
    from jaxseg.commands.parser import check_run_flags
    from jaxseg.data import folder_config
    from jaxseg.experiment import load_experiment

    check_run_flags(overrides)
    file = find_experiment(command.experiment)
    source = None
    if command.data is not None:
        source = override_source(folder_config(command.data), overrides)
    experiment = override(
        load_experiment(file, source),
        overrides,
        prog=f"jaxseg train {command.experiment}",
        description=describe(file),
    )
    if command.dry_run:
        return _until_notice(lambda: dry_run(experiment))
    workdir = command.workdir
    if workdir is None:
        exit_for_usage(
            "train: give --workdir DIR, a folder for checkpoints and curves (or --dry-run)"
        )
    return lambda notice: train_command.train(experiment, workdir, notice, fork=command.fork)


def _until_notice(run: Callable[[], int | None]) -> Run:
    """Return the command that a notice may abort at any point."""

    def run_until(notice: "PreemptionNotice") -> int | None:
        with notice.raising():
            return run()

    return run_until


def _eval(command: flags.Eval, _: Sequence[str]) -> Run:
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


def _predict(command: flags.Predict, _: Sequence[str]) -> Run:
    from jaxseg.commands.predict import predict

    if not command.images:
        exit_for_usage("predict: give at least one IMAGE")
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


def _data_config(command: flags.DataFolder) -> Any:
    """Return the config of the data that a command reads."""
    from jaxseg.data import CocoFolder, folder_config

    config = folder_config(command.path)
    settings: dict[str, Any] = {
        "images": None if command.images is None else str(command.images),
        "allow_outside_files": command.allow_outside_files,
        "panoptic": command.panoptic,
        "semantic_maps": None if command.semantic_maps is None else str(command.semantic_maps),
        "num_semantic_classes": command.num_semantic_classes,
    }
    if isinstance(config, CocoFolder):
        return dataclasses.replace(config, **settings)
    given = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value]
    if given:
        raise ValueError(
            f"{command.path} is a TFDS dataset, which these do not apply to: {', '.join(given)}"
        )
    return config


def _data_check(command: flags.DataCheck, _: Sequence[str]) -> Run:
    from jaxseg.commands.data_check import report

    def run(_: "PreemptionNotice") -> int:
        passed = report(
            _data_config(command),
            split=command.split,
            max_objects=command.max_objects,
            bucket=command.bucket,
            ignore_issues=command.ignore_issues,
            out=command.out,
        )
        return 0 if passed else 1

    return run


def _data_import(command: flags.DataImport, _: Sequence[str]) -> Run:
    from jaxseg.commands.data_import import import_data
    from jaxseg.data.importers import Options

    options = Options(
        images=command.images,
        class_attribute=command.class_attribute,
        allow_outside_files=command.allow_outside_files,
        val_fraction=command.val_fraction,
        seed=command.seed,
    )
    return lambda _: import_data(command.source, command.out, options, command.format)


def _data_show(command: flags.DataShow, _: Sequence[str]) -> Run:
    from jaxseg.commands.data_show import show

    def run(_: "PreemptionNotice") -> None:
        ids = show(
            _data_config(command),
            command.out,
            split=command.split,
            count=command.count,
            seed=command.seed,
        )
        print(f"drew {len(ids)} images in {command.out}")

    return run


def _data_build(command: flags.DataBuild, _: Sequence[str]) -> Run:
    from jaxseg.data.tfds import build

    def run(_: "PreemptionNotice") -> None:
        with progress_bar("images") as show_progress:
            built = build(
                command.folder,
                command.out,
                command.splits,
                images=command.images,
                ignore_issues=command.ignore_issues,
                allow_outside_files=command.allow_outside_files,
                progress=show_progress,
            )
        print(f"built {command.out}" if built else f"nothing to do: {command.out} is complete")

    return run


def _weights_import(command: flags.WeightsImport, overrides: Sequence[str]) -> Run:
    from jaxseg.commands.weights import import_weights

    return lambda _: import_weights(
        command.file,
        command.model,
        command.out,
        overrides,
        allow_modules=command.allow_module,
    )


def _weights_export(command: flags.WeightsExport, _: Sequence[str]) -> Run:
    from jaxseg.commands.weights import export_weights

    return lambda _: export_weights(
        command.workdir, command.out, names=command.names, allow_modules=command.allow_module
    )


def _experiments(command: flags.Experiments, _: Sequence[str]) -> Run:
    from jaxseg.commands.experiments import format_experiments

    del command
    return lambda _: print(format_experiments())


def _bench(command: flags.Bench, _: Sequence[str]) -> Run:
    from jaxseg.bench.run import bench, measure_compilation
    from jaxseg.bench.settings import make_settings

    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    settings = make_settings(**given)

    def run(_: "PreemptionNotice") -> int:
        measure_compilation()
        return bench(settings)

    return run


def _env(command: flags.Env, _: Sequence[str]) -> Run:
    from jaxseg.commands.env import environment

    del command

    def run(_: "PreemptionNotice") -> None:
        for line in environment():
            print(line, flush=True)

    return run


def _completion(command: flags.Completion, _: Sequence[str]) -> Run:
    from jaxseg.commands.parser import completion_script

    return lambda _: print(completion_script(command.shell))


COMMANDS: dict[type, Command] = {
    flags.Demo: Command("demo", _demo, stoppable=True),
    flags.Train: Command("train", _train, stoppable=True),
    flags.Eval: Command("eval", _eval, stoppable=True),
    flags.Predict: Command("predict", _predict, stoppable=True),
    flags.DataCheck: Command("data check", _data_check),
    flags.DataImport: Command("data import", _data_import),
    flags.DataShow: Command("data show", _data_show),
    flags.DataBuild: Command("data build", _data_build),
    flags.WeightsImport: Command("weights import", _weights_import),
    flags.WeightsExport: Command("weights export", _weights_export),
    flags.Experiments: Command("experiments", _experiments, without_jax=True),
    flags.Bench: Command("bench", _bench),
    flags.Env: Command("env", _env),
    flags.Completion: Command("completion", _completion, without_jax=True),
}
