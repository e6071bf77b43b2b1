"""The parser of the command line: which command, with which flags.

Nothing here imports JAX, which takes seconds.
"""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from jaxseg.commands import flags
from jaxseg.terminal import is_plain


@dataclasses.dataclass(frozen=True)
class _Data:
    """Import, check and show datasets, and convert them to TFDS."""

    command: (
        Annotated[flags.DataImport, subcommand("import")]
        | Annotated[flags.DataCheck, subcommand("check")]
        | Annotated[flags.DataShow, subcommand("show")]
        | Annotated[flags.DataBuild, subcommand("build")]
    )


@dataclasses.dataclass(frozen=True)
class _Weights:
    """Import and export published checkpoints."""

    command: (
        Annotated[flags.WeightsImport, subcommand("import")]
        | Annotated[flags.WeightsExport, subcommand("export")]
    )


@dataclasses.dataclass(frozen=True)
class _Program:
    """Instance segmentation in JAX.

    jaxseg COMMAND --help describes a command, jaxseg --version prints the version.
    """

    command: (
        Annotated[flags.Demo, subcommand("demo")]
        | Annotated[flags.Train, subcommand("train")]
        | Annotated[flags.Experiments, subcommand("experiments")]
        | Annotated[flags.Eval, subcommand("eval")]
        | Annotated[flags.Predict, subcommand("predict")]
        | Annotated[_Data, subcommand("data")]
        | Annotated[_Weights, subcommand("weights")]
        | Annotated[flags.Bench, subcommand("bench")]
        | Annotated[flags.Env, subcommand("env")]
        | Annotated[flags.Completion, subcommand("completion")]
    )


_CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.DisallowNone,
)


def parse(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Parse a command line to a command and the arguments that override an experiment's fields.

    Only `Train` and `WeightsImport` have such arguments. A usage error ends the program with
    status 2.
    """
    format_plainly_without_terminal()
    _check_command_name(arguments)
    options: dict[str, Any] = {"prog": "jaxseg", "args": arguments, "config": _CONFIG}
    # After EXPERIMENT, `--help` is left for the parser of the experiment's fields.
    experiment_given = (
        len(arguments) > 1 and arguments[0] == "train" and not arguments[1].startswith("-")
    )
    program, overrides = tyro.cli(
        _Program, return_unknown_args=True, add_help=not experiment_given, **options
    )
    command = program.command
    if isinstance(command, _Data | _Weights):
        command = command.command
    if overrides and not isinstance(command, flags.Train | flags.WeightsImport):
        tyro.cli(_Program, **options)  # reports the unknown arguments and exits
    return command, overrides


def _check_command_name(arguments: Sequence[str]) -> None:
    """Exit with status 2 if the first words name no command, with similar names."""
    from jaxseg.commands.registry import COMMANDS, exit_for_usage

    names = [command.name.split() for command in COMMANDS.values()]
    known = {tuple(name[:1]) for name in names} | {tuple(name) for name in names}
    groups = {name[0] for name in names if len(name) > 1}
    given = tuple(arguments[: 2 if arguments and arguments[0] in groups else 1])
    if not given or given[-1].startswith("-") or given in known:
        return
    siblings = [name for name in names if len(given) == 1 or name[0] == given[0]]
    words = [word for name in siblings for word in name]
    closest = next(iter(difflib.get_close_matches(given[-1], words, n=1)), None)
    similar = ["jaxseg " + " ".join(name) for name in siblings if closest in name]
    if closest in groups:
        similar = [f"jaxseg {closest}"]
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    help_of = " ".join(["jaxseg", *given[:-1], "--help"])
    exit_for_usage(f"{' '.join(given)}: there is no such command: {hint}`{help_of}` lists all")


def check_run_flags(overrides: Sequence[str]) -> None:
    """Exit with status 2 if one of the flags for an experiment's fields is a run's, misspelled.

    The parser of the fields knows no flag of `Train`, and would not name it.
    """
    from jaxseg.commands.registry import exit_for_usage

    own = (*dataclasses.fields(flags.Train), *dataclasses.fields(flags.Processes))
    names = ["--" + field.name.replace("_", "-") for field in own]
    for flag in (word.partition("=")[0] for word in overrides if word.startswith("--")):
        similar = difflib.get_close_matches(flag, names, n=1, cutoff=0.75)
        if similar and "." not in flag:
            exit_for_usage(f"train: there is no flag {flag}: did you mean {similar[0]}?")


def completion_script(shell: str) -> str:
    """Return the script that completes commands and flags in `shell`: bash, zsh or fish."""
    text = io.StringIO()
    # tyro prints the script and ends the program.
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(_Program, prog="jaxseg", args=["--tyro-print-completion", shell], config=_CONFIG)
    script = text.getvalue()
    for old, new in _CHANGES[shell]:
        script = script.replace(old, new)
    return script


_CHANGES = {
    "bash": [("complete -F _tyro_jaxseg", "complete -o default -F _tyro_jaxseg")],
    "zsh": [
        ("completion_array\n}", "completion_array || _files\n}"),
        (
            '\n_tyro_jaxseg "$@"\n',
            '\nif [ "$funcstack[1]" = _jaxseg ]; then\n  _tyro_jaxseg "$@"\nelse\n'
            "  compdef _tyro_jaxseg jaxseg\nfi\n",
        ),
        # Without any completion there is one empty line.
        (
            '"$completions" == "__TYRO_COMPLETE_FILES__"',
            '"$completions" == (|__TYRO_COMPLETE_FILES__)',
        ),
    ],
    "fish": [("complete --no-files --command", "complete --command")],
}
"""Changes of tyro's scripts: files are completed where tyro knows nothing, such as EXPERIMENT, and
zsh's script can be evaluated in ~/.zshrc."""


def format_plainly_without_terminal() -> None:
    """Let help and usage errors be plain text where there is no terminal, or with NO_COLOR."""
    if is_plain():
        tyro._experimental_options["utf8_boxes"] = False
        tyro._experimental_options["ansi_codes"] = False
