"""How the program ends: its statuses, in a process of its own, whatever its threads do."""

import os
import subprocess
import sys
import time

import pytest

from jaxseg.commands import cli, registry
from jaxseg.commands.cli import main
from tests.conftest import ROOT

REPLACED = """
import atexit, sys, threading, time
from jaxseg.commands import cli, registry
cli.EXIT_SECONDS = 1.0
def run(notice):
    {body}
command = registry.Command("experiments", lambda *_: run, without_jax=True)
registry.COMMANDS = {{cls: command for cls in registry.COMMANDS}}
sys.argv = ["jaxseg", "experiments"]
cli.program()
"""
"""The program with another command in place of all."""


def start(body, **options):
    """Start the program with a command of this body."""
    code = REPLACED.format(body=body.replace("\n", "\n    "))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


HANGING_THREAD = "threading.Thread(target=time.sleep, args=(60,)).start()\n"
HANGING_HANDLER = "atexit.register(time.sleep, 60)\n"
HANGING_TEARDOWN = """class Hanging:
    def __del__(self): __import__("time").sleep(60)
sys.modules["__main__"].held = Hanging()
"""


@pytest.mark.parametrize(
    ("before", "end", "status"),
    [
        (HANGING_THREAD, 'raise ValueError("it is broken")', 1),
        (HANGING_HANDLER, 'raise ValueError("it is broken")', 1),
        (HANGING_TEARDOWN, 'raise ValueError("it is broken")', 1),
        (HANGING_TEARDOWN, "return 0", 0),
        (HANGING_THREAD, "return 75", 75),
        (HANGING_THREAD, "1 / 0", 70),
    ],
)
def test_nothing_delays_the_end(before, end, status):
    started = time.monotonic()
    process = start(before + end)
    _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert time.monotonic() - started < 20
    assert ("it is broken" in error) is (status == 1)


def test_an_unexpected_error_asks_for_a_report():
    process = start("1 / 0")
    out, error = process.communicate(timeout=30)
    assert process.returncode == 70
    assert "ZeroDivisionError" in error
    assert error.endswith("report it with the lines above and the output of `jaxseg env`\n")
    assert not out


@pytest.mark.parametrize(
    "body",
    [
        'print("x" * 100_000, flush=True)',
        'print("one line")',  # which Python writes at its end
        'while True: print("x" * 1000)',
        'print("x", file=sys.stderr); print("x" * 100_000)',
    ],
)
def test_output_that_nobody_reads_ends_the_program_silently(body):
    process = start("sys.stdin.read()\n" + body, stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.close()
    with process.stderr:
        error = process.stderr.read()
    assert process.wait(30) == 141
    assert error in ("", "x\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["env"]])
def test_commands_whose_output_nobody_reads_are_silent(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "jaxseg", *arguments]
    with os.fdopen(write_end, "w") as out:
        result = subprocess.run(
            command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 141
    assert not result.stderr


def test_a_broken_pipe_elsewhere_is_an_error(monkeypatch, capsys):
    def fail(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(
        registry,
        "COMMANDS",
        {
            cls: registry.Command("experiments", lambda *_: fail, without_jax=True)
            for cls in registry.COMMANDS
        },
    )
    assert main(["experiments"]) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_a_device_without_memory_is_an_error_with_advice(monkeypatch, capsys):
    def fail(_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore lines")

    command = registry.Command("train", lambda *_: fail)
    monkeypatch.setattr(registry, "COMMANDS", dict.fromkeys(registry.COMMANDS, command))
    assert main(["train", "x", "--workdir", "x"]) == 1
    error = capsys.readouterr().err
    assert "a device is out of memory" in error
    assert "--train.grad-accum-steps" in error
    assert "allocating 9 bytes" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--help"], ["eval", "--bogus"], ["--version"], ["experiments"]]
)
def test_output_without_a_terminal_is_plain(arguments):
    command = [sys.executable, "-m", "jaxseg", *arguments]
    environment = os.environ | {"PYTHONUTF8": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment, check=False)
    printed = result.stdout + result.stderr
    assert printed
    for mark in ("\r", "\x1b", "╭", "│", "─"):
        assert mark.encode() not in printed


def test_the_statuses_are_documented():
    table = (ROOT / "docs" / "commands.md").read_text()
    for status in (0, cli.FAILED, 2, cli.BUG, cli.PREEMPTED, cli.INTERRUPTED, cli.NO_READER):
        assert f"| {status} |" in table
        assert f"\n    {status} " in cli.__doc__
