"""The parser of the command line: which command, with which flags.

Nothing here imports JAX, which takes seconds.
"""

import contextlib
import dataclasses
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
