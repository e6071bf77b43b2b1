"""The log of the command-line programs, on one process and on several."""

import logging
import sys

import jax
import pytest

from jaxseg import log
from jaxseg.log import log_to_stderr

LOGGER = logging.getLogger("jaxseg.some.module")


def test_info_and_warnings_are_plain_lines_on_standard_error(capsys):
    with log_to_stderr():
        LOGGER.debug("left out")
        LOGGER.info("step %d", 3)
        LOGGER.warning("the disk is slow")
    assert capsys.readouterr().err == "step 3\nthe disk is slow\n"


@pytest.mark.parametrize(
    ("process", "expected"),
    [(0, "step 3\nprocess 0: the disk is slow\n"), (1, "process 1: the disk is slow\n")],
)
def test_only_process_0_writes_info_and_warnings_name_their_process(
    process, expected, monkeypatch, capsys
):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(log, "process_count", lambda: 2)
    monkeypatch.setattr(log, "process_index", lambda: process)
    with log_to_stderr():
        LOGGER.info("step %d", 3)
        LOGGER.warning("the disk is slow")
    assert capsys.readouterr().err == expected


def test_the_backend_is_not_started_before_the_processes_are_connected(monkeypatch, capsys):
    def start_backend():
        raise AssertionError("process_index starts JAX's backend")

    monkeypatch.setattr(log, "process_index", start_backend)
    monkeypatch.setattr(log, "process_count", start_backend)
    with log_to_stderr():
        LOGGER.info("reading the data")
    assert capsys.readouterr().err == "reading the data\n"


def test_records_do_not_reach_the_root_logger_within_the_context(caplog):
    with log_to_stderr():
        LOGGER.warning("the disk is slow")
    assert not caplog.records


def test_an_error_while_writing_passes(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    with log_to_stderr(), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Closed())
        with pytest.raises(BrokenPipeError):
            LOGGER.info("step 3")


def test_the_loggers_are_left_as_they_were(caplog):
    logger = logging.getLogger("jaxseg")
    before = logger.level, logger.propagate, list(logger.handlers)
    with log_to_stderr():
        pass
    assert (logger.level, logger.propagate, logger.handlers) == before
    LOGGER.warning("the disk is slow")
    assert caplog.messages == ["the disk is slow"]
