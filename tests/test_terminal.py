"""Bars on a terminal, plain lines in a pipe, and output that nobody reads."""

import io
import os
import pty
import sys
import threading

import pytest

from jaxseg import terminal
from jaxseg.terminal import has_reader, is_plain, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_output_is_plain_without_a_terminal_or_with_no_color(monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert is_plain()
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert not is_plain()
    monkeypatch.setenv("NO_COLOR", "")
    assert not is_plain()
    monkeypatch.setenv("NO_COLOR", "1")
    assert is_plain()


def test_a_pipe_gets_plain_lines_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with progress_bar("images read") as show:
        for done in range(1, 101):
            now[0] += 1.0
            show(done, 100)
    lines = capsys.readouterr().err
    assert lines == "".join(f"{done} of 100 images read\n" for done in (30, 60, 90))


def test_a_short_task_prints_nothing_in_a_pipe(capsys):
    with progress_bar("images read") as show:
        show(1, 1)
    with progress_bar("images read", active=False) as show:
        show(1, 1)
    printed = capsys.readouterr()
    assert not printed.out + printed.err


def test_a_terminal_gets_a_bar_that_disappears(monkeypatch, capsys):
    """The lines of standard output, which is a file here, do not go to the terminal."""
    monkeypatch.setenv("TERM", "xterm")
    main, replica = pty.openpty()
    shown = []

    def read():
        try:
            while data := os.read(main, 4096):
                shown.append(data)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(replica, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with progress_bar("images read") as show:
            show(3, 7)
            print("a result")
            print("a warning", file=sys.stderr)
    reader.join(10)
    os.close(main)
    text = b"".join(shown).decode()
    assert "images read" in text
    assert "3/7" in text
    assert "a warning" in text
    assert "a result" not in text
    assert capsys.readouterr().out == "a result\n"


@pytest.mark.parametrize("closed", [False, True])
def test_a_pipe_that_nobody_reads_is_found(closed):
    read_end, write_end = os.pipe()
    with open(write_end, "w") as stream:
        if closed:
            os.close(read_end)
        assert has_reader(stream) is not closed
        if not closed:
            os.close(read_end)


def test_a_stream_without_a_file_has_a_reader():
    assert has_reader(io.StringIO())
