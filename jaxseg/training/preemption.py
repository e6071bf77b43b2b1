"""Preemption: a process that is about to be stopped saves its state and exits with status 75.

A cluster that takes a machine back sends SIGTERM first (SLURM, Kubernetes, TPU VMs), or SIGUSR1
where a SLURM job requests it (`--signal=USR1@120`). A training then finishes its step, saves, and
ends with status 75; Ctrl-C does the same. The same command resumes it.

Three ways to react to a notice: `PreemptionNotice.reached` after a step, `PreemptionNotice.raising`
around code of one process, and `run_unless_stopped` where processes exchange results afterwards.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

import jax
import numpy as np

from jaxseg.distributed import allgather_json

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SECOND_INTERRUPT_SECONDS = 1.0
"""A second Ctrl-C ends the process at once, unless it follows the first within this time: `timeout`
and the wrappers of commands send a signal twice."""
RAISE_AGAIN_SECONDS = 10.0
"""A notice that the code within `PreemptionNotice.raising` catches, as callbacks and finalizers do,
is raised again after this time."""


class Preempted(BaseException):
    """The process must end.

    It is no `Exception`, so that code which handles any error of a file or library lets it pass.

    Args:
        reason: the notice.
        step: number of steps of the newest checkpoint, from which the run can be resumed; None if
            there is none.
        alone: whether the other processes of the run do not end at the same point.
    """

    def __init__(self, reason: str, step: int | None = None, *, alone: bool = False):
        saved = f"saved after step {step}; run the same command to resume"
        super().__init__(f"{reason}: {'run the same command again' if step is None else saved}")
        self.reason, self.alone = reason, alone


class PreemptionNotice:
    """The notice to stop this process, once it has arrived, and the reason for it.

    Args:
        end_at_once: called at the second Ctrl-C; None to raise KeyboardInterrupt.
    """

    def __init__(self, end_at_once: Callable[[], None] | None = None) -> None:
        self.reason = ""
        self._end_at_once = end_at_once
        self._delay: float | None = None  # of the context `raising`; None outside of it
        self._timer_runs = False
        self._noticed: jax.Array | None = None  # of the previous step
        self._interrupted: float | None = None

    def reached(self, noticed: jax.Array | None = None) -> bool:
        """Return whether to save and stop after this step, the same in all processes.

        Args:
            noticed: what the step has returned (`share_notice`). With several processes the answer
                is that of the step before: reading this one's would wait for the step.
        """
        if jax.process_count() == 1:
            return bool(self.reason)
        previous, self._noticed = self._noticed, noticed
        if previous is None or not np.asarray(previous).any():
            return False
        self.reason = self.reason or "stopped by a notice to another process"
        return True

    @contextmanager
    def raising(self, *, after: float = 0.0) -> Iterator[None]:
        """Raise `Preempted` within the context, `after` seconds after a notice or after its start.

        The code within may be aborted anywhere, so it must leave no file half-written that others
        read, and must not exchange data with other processes.
        """
        outer, self._delay = self._delay, after
        try:
            if self.reason:
                self._raise_or_wait()
            yield
        finally:
            self._delay = outer
            if self._timer_runs:
                self._set_timer(0.0)
        if self.reason and not after:  # the code within caught it
            raise Preempted(self.reason)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, as its handler."""
        del frame
        self.reason = self.reason or f"stopped by {signal.Signals(number).name}"
        self._raise_or_wait()

    def receive_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Note a Ctrl-C, as the handler of SIGINT; end the process at the second."""
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted = now
            # Not by `print`, which the signal may have interrupted.
            os.write(2, b"\nstopping at the next safe moment; Ctrl-C again ends at once\n")
        elif now - self._interrupted > SECOND_INTERRUPT_SECONDS:
            if self._end_at_once is not None:
                self._end_at_once()
            raise KeyboardInterrupt
        self.receive(number, frame)

    def end_wait(self, number: int, frame: FrameType | None) -> None:
        """End the delay of `raising`, as the handler of SIGALRM."""
        del number, frame
        if self._delay is not None:
            self._raise()

    def _raise_or_wait(self) -> None:
        # Where the timer runs, the notice waits or was raised: a second signal must not abort
        # the cleanup after the first.
        if self._delay is None or self._timer_runs:
            return
        if self._delay == 0:
            self._raise()
        self._set_timer(self._delay)

    def _raise(self) -> None:
        self._set_timer(RAISE_AGAIN_SECONDS)
        raise Preempted(self.reason)

    def _set_timer(self, seconds: float) -> None:
        self._timer_runs = seconds > 0
        signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def handle_signals(end_at_once: Callable[[], None] | None = None) -> Iterator[PreemptionNotice]:
    """Turn signals into a notice within the context, after `jaxseg.distributed.connect`.

    `end_at_once` is called at the second Ctrl-C; without it, KeyboardInterrupt is raised.
    JAX's own handler of SIGTERM, which `connect` installs, does not come back afterwards. Outside
    the main thread, where Python handles no signals, the notice never arrives.
    """
    notice = PreemptionNotice(end_at_once)
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    handlers: dict[int, Any] = dict.fromkeys(SIGNALS, notice.receive)
    handlers |= {signal.SIGINT: notice.receive_interrupt, signal.SIGALRM: notice.end_wait}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield notice
    finally:
        for number, old in previous.items():
            # None: the handler before was not Python's.
            signal.signal(number, signal.SIG_DFL if old is None else old)


def run_unless_stopped(notice: PreemptionNotice, compute: Callable[[], T]) -> T:
    """Return what `compute` returns in this process; a collective.

    Raises Preempted in all processes if a notice to one of them has aborted its `compute`, which
    may happen anywhere (see `PreemptionNotice.raising`).
    """
    value, reason = None, ""
    try:
        with notice.raising():
            value = compute()
    except Preempted as stop:
        reason = stop.reason
    reasons = [reason for reason in allgather_json(reason) if reason]
    if reasons:
        raise Preempted(reasons[0])
    return cast(T, value)
