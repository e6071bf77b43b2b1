"""Notices to stop, as signals bring them, and what several hosts make of one."""

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


def test_a_notice_where_exceptions_are_ignored_is_not_lost():
    def handles_all():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
        except Preempted:
            pass

    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Preempted, match="SIGUSR1: before the first step"), raise_on_notice(None):
        handles_all()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_of_several_hosts_each_signal_reaches_the_one_that_jax_watches(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    reached = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    try:
        with handle_signals():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert reached == [signal.SIGTERM]


def test_several_hosts_count_from_one_when_they_ask_for_a_notice(monkeypatch):
    """JAX's service, told before any host has asked, answers yes to the number 1 alone."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    told_before = SimpleNamespace(reached_preemption_sync_point=lambda number: number == 1)
    monkeypatch.setattr(preemption, "multihost_utils", told_before)
    notice = preemption.PreemptionNotice()
    assert notice.reached()
    assert notice.reason == "told to stop"


@pytest.mark.slow
def test_two_hosts_leave_soon_after_a_notice_and_read_what_both_can(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.training.two_hosts", str(tmp_path), address]
    flags = "--xla_force_host_platform_device_count=1"
    hosts = [
        subprocess.Popen(
            [*command, str(host)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for host in range(2)
    ]
    outs = [host.communicate(timeout=120)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0]
    told = json.loads(outs[1].splitlines()[-1])
    assert 1006 <= told["left"] <= 1007
    assert told["restored"] == 1002
    assert (tmp_path / "checkpoints" / "damaged-1005").is_dir()
