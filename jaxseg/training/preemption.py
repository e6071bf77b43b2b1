"""Notices that a run is about to be stopped, and how it leaves.

A cluster that takes a machine back sends SIGTERM first (SLURM, Kubernetes, TPU VMs), or SIGUSR1
where a SLURM job asks for it (`--signal=USR1@120`). The run then finishes its step, saves, and ends
with `EXIT_STATUS`, after which the same command goes on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75
"""`EX_TEMPFAIL` of sysexits.h: not done, try again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):
    """The run has saved its state after `step` steps, or made none (None), and must end."""

    def __init__(self, step: int | None, reason: str):
        saved = "before the first step" if step is None else f"saved after step {step}"
        super().__init__(f"{reason}: {saved}; the same command goes on from there")
        self.step = step


class PreemptionNotice:
    """Whether a notice has come, and by which signal."""

    def __init__(self) -> None:
        self.reason = ""
        self._asked = 0

    def reached(self) -> bool:
        """Whether to save and leave. Several hosts, which get the notice at different times, all
        ask after the same steps and leave after the same one."""
        self._asked += 1
        if jax.process_count() > 1:
            # JAX lets all leave at the number after the highest that any has asked with, which is
            # 0 while none has: steps, of a run that is resumed, would skip that number.
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.reason = self.reason or "told to stop"
                return True
            return False
        return bool(self.reason)


@contextmanager
def handle_signals() -> Iterator[PreemptionNotice]:
    """Catches the signals until the context is left. A second one of a kind acts as it did before.

    Of several hosts JAX's own service watches SIGTERM, so that they can agree; SIGUSR1 is handed
    on to it.
    """
    notice = PreemptionNotice()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        notice.reason = _reason(number)
        signal.signal(number, before[signal.Signals(number)])

    def hand_on(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.kill(os.getpid(), signal.SIGTERM)

    if jax.process_count() == 1:
        handlers = dict.fromkeys(SIGNALS, note)
    else:
        handlers = {signal.SIGUSR1: hand_on}
    for number, handler in handlers.items():
        before[number] = signal.signal(number, handler)
    try:
        yield notice
    finally:
        for number in handlers:
            signal.signal(number, before[number])


@contextmanager
def raise_on_notice(step: int | None) -> Iterator[None]:
    """Within the context, which must change nothing that is kept, a notice raises
    `Preempted(step)` where the process is. Several hosts, which could not agree, wait for its end.
    """
    if jax.process_count() > 1:
        yield
        return
    told: list[Preempted] = []

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        told.append(Preempted(step, _reason(number)))
        raise told[0]

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:  # where it was raised, exceptions are ignored
        raise told[0]


def _reason(number: int) -> str:
    return f"told to stop by {signal.Signals(number).name}"
