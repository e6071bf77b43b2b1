"""Preemption: a run that is about to be stopped saves its state and exits with status 75.

A cluster that takes a machine back sends SIGTERM first (SLURM, Kubernetes, TPU VMs), or SIGUSR1
where a SLURM job requests it (`--signal=USR1@120`). The run then finishes its step, saves, and ends
with `EXIT_STATUS`. The same command resumes it.
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
"""`EX_TEMPFAIL` of sysexits.h: a temporary failure, try again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(Exception):
    """The run must end; its state is saved after `step` steps, or it has made none (None)."""

    def __init__(self, step: int | None, reason: str):
        saved = "before the first step" if step is None else f"saved after step {step}"
        super().__init__(f"{reason}: {saved}; run the same command to resume")
        self.step = step


class PreemptionNotice:
    """The notice to stop, once it has arrived, and the reason for it."""

    def __init__(self) -> None:
        self.reason = ""
        self._checks = 0

    def reached(self) -> bool:
        """Return whether to save and stop.

        The processes of a run receive the notice at different times. All of them must call this
        after the same steps; it then returns True on all after the same step.
        """
        self._checks += 1
        if jax.process_count() > 1:
            # JAX's common stop is one above the highest number that any process has passed, so
            # it is 1 before the first call. The steps of a resumed run would skip over it: pass
            # the number of this call instead, counted from 1.
            if multihost_utils.reached_preemption_sync_point(self._checks):
                self.reason = self.reason or "stopped by a preemption notice"
                return True
            return False
        return bool(self.reason)


@contextmanager
def handle_signals() -> Iterator[PreemptionNotice]:
    """Turn signals into a notice within the context.

    A second signal of the same kind has its previous effect. With several processes JAX's own
    service handles SIGTERM, so that the processes can agree; SIGUSR1 is forwarded as SIGTERM.
    """
    notice = PreemptionNotice()
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        notice.reason = _reason(number)
        signal.signal(number, previous[signal.Signals(number)])

    def forward(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.kill(os.getpid(), signal.SIGTERM)

    if jax.process_count() == 1:
        handlers = dict.fromkeys(SIGNALS, note)
    else:
        handlers = {signal.SIGUSR1: forward}
    for number, handler in handlers.items():
        previous[number] = signal.signal(number, handler)
    try:
        yield notice
    finally:
        for number in handlers:
            signal.signal(number, previous[number])


@contextmanager
def raise_on_notice(step: int | None) -> Iterator[None]:
    """Raise `Preempted(step)` within the context as soon as a signal arrives.

    The code within may be cut off anywhere, so it must change no file. With several processes,
    which could not agree on the moment, nothing is raised.
    """
    if jax.process_count() > 1:
        yield
        return
    raised: list[Preempted] = []

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        raised.append(Preempted(step, _reason(number)))
        raise raised[0]

    previous = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
    if raised:  # the code within caught it, as callbacks and finalizers do
        raise raised[0]


def _reason(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}"
