"""Signals that stop a run, in one process and in several that must agree."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import pytest

from jaxseg.training import preemption
from jaxseg.training.preemption import Preempted, handle_signals, raise_on_notice
from tests.conftest import ROOT


def test_a_notice_that_the_code_within_catches_is_raised_at_the_end():
    def catches_all():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
        except Preempted:
            pass

    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Preempted, match="SIGUSR1: before the first step"), raise_on_notice(None):
        catches_all()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_with_several_processes_sigusr1_is_forwarded_as_sigterm(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with handle_signals():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_several_processes_count_their_checks_from_one(monkeypatch):
    """A notice that arrives before any process has checked is reached at number 1 alone."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    notice_at_start = SimpleNamespace(reached_preemption_sync_point=lambda number: number == 1)
    monkeypatch.setattr(preemption, "multihost_utils", notice_at_start)
    notice = preemption.PreemptionNotice()
    assert notice.reached()
    assert notice.reason == "stopped by a preemption notice"


@pytest.mark.slow
def test_two_processes_stop_soon_after_a_notice_and_restore_what_both_can_read(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.training.two_processes", str(tmp_path), address]
    flags = "--xla_force_host_platform_device_count=1"
    processes = [
        subprocess.Popen(
            [*command, str(index)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for index in range(2)
    ]
    outs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    result = json.loads(outs[1].splitlines()[-1])
    assert 1006 <= result["stopped"] <= 1007
    assert result["restored"] == 1002
    assert (tmp_path / "checkpoints" / "corrupt-1005").is_dir()
