"""Signals that stop a process, alone and together with others."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.parallel import pmap_step, shard_map_step
from jaxseg.training import preemption
from jaxseg.training.preemption import (
    Preempted,
    PreemptionNotice,
    handle_signals,
    run_unless_stopped,
)
from jaxseg.training.step import share_notice
from tests.conftest import ROOT


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_a_notice_that_the_code_within_catches_is_raised_at_the_end():
    def catches_all():
        with contextlib.suppress(Preempted):
            send(signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    with (
        pytest.raises(Preempted, match="SIGUSR1: run the same command again"),
        handle_signals() as notice,
        notice.raising(),
    ):
        catches_all()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_notice_that_the_code_within_catches_is_raised_again(monkeypatch):
    def catches_once():
        with contextlib.suppress(Preempted):
            send(signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(preemption, "RAISE_AGAIN_SECONDS", 0.05)
    with pytest.raises(Preempted), handle_signals() as notice, notice.raising():
        catches_once()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("after", [0.0, 0.01])
def test_a_second_signal_does_not_cut_off_what_the_first_leaves_through(after):
    cleaned = []

    def clean_up_when_stopped():
        try:
            send(signal.SIGTERM)
            time.sleep(60)
        finally:
            send(signal.SIGTERM)
            time.sleep(2 * after)
            cleaned.append(True)

    with pytest.raises(Preempted), handle_signals() as notice, notice.raising(after=after):
        clean_up_when_stopped()
    assert cleaned


def test_a_second_signal_does_not_extend_the_delay():
    def repeat():
        while time.monotonic() < end:
            send(signal.SIGTERM)

    start, end = time.monotonic(), time.monotonic() + 1
    with pytest.raises(Preempted), handle_signals() as notice, notice.raising(after=0.1):
        repeat()
    assert time.monotonic() - start < 0.9


def test_code_that_handles_all_errors_lets_a_notice_pass():
    def decode():
        try:
            send(signal.SIGTERM)
        except Exception as error:
            raise ValueError("the image cannot be decoded") from error

    with pytest.raises(Preempted), handle_signals() as notice, notice.raising():
        decode()


def test_a_notice_from_before_is_raised_at_once():
    with handle_signals() as notice:
        send(signal.SIGTERM)
        with pytest.raises(Preempted), notice.raising():
            pytest.fail("the body was entered")


def test_a_second_sigterm_has_no_effect():
    with handle_signals() as notice:
        for _ in range(3):
            send(signal.SIGTERM)
        assert notice.reached()
    assert notice.reason == "stopped by SIGTERM"


def test_a_second_interrupt_ends_at_once_unless_it_is_the_echo_of_the_first(monkeypatch):
    with handle_signals() as notice:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert notice.reached()
        monkeypatch.setattr(preemption, "SECOND_INTERRUPT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_interrupt_may_end_the_process_whatever_hangs(monkeypatch):
    monkeypatch.setattr(preemption, "SECOND_INTERRUPT_SECONDS", 0.0)
    ended = []
    with contextlib.suppress(KeyboardInterrupt), handle_signals(lambda: ended.append(True)):
        send(signal.SIGINT)
        assert not ended
        send(signal.SIGINT)
    assert ended


def test_outside_the_main_thread_no_signal_is_handled():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with handle_signals() as notice:
            found.append((notice.reached(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_delayed_notice_cuts_off_what_hangs_and_nothing_else():
    with handle_signals() as notice:
        with notice.raising(after=0.2):
            send(signal.SIGTERM)  # the rest ends in time
        with pytest.raises(Preempted), notice.raising(after=0.05):
            time.sleep(60)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_notice_to_one_process_stops_the_exchange_of_all(monkeypatch):
    monkeypatch.setattr(preemption, "allgather_json", lambda own: [own, "stopped by SIGTERM"])
    with pytest.raises(Preempted, match="stopped by SIGTERM"):
        run_unless_stopped(PreemptionNotice(), lambda: "own results")


def test_a_stopped_process_still_tells_the_others(monkeypatch):
    told = []
    monkeypatch.setattr(preemption, "allgather_json", lambda value: told.append(value) or told)
    with handle_signals() as notice, pytest.raises(Preempted):
        run_unless_stopped(notice, lambda: send(signal.SIGUSR1))
    assert told == ["stopped by SIGUSR1"]


def test_processes_stop_one_step_after_any_of_them_has_told_the_others(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    notice = PreemptionNotice()
    assert [notice.reached(jnp.asarray(flag)) for flag in (0, 1, 1)] == [False, False, True]
    assert notice.reason == "stopped by a notice to another process"


@pytest.mark.parametrize("transform", [pmap_step, shard_map_step])
def test_a_step_tells_all_devices_of_a_notice_to_one(transform):
    step = transform(share_notice(lambda state, batch: (state + batch.sum(), {})), 2)
    batch = np.ones(4, np.float32)
    for flags, expected in (([0, 0, 0, 0], 0), ([0, 0, 1, 1], 1)):
        _, (_, flag) = step(jnp.zeros(()), (batch, np.asarray(flags, np.int32)))
        assert np.asarray(flag) == expected


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
    assert 1006 <= result["stopped"] <= 1008
    assert result["restored"] == 1002
    assert (tmp_path / "checkpoints" / "corrupt-1005").is_dir()
