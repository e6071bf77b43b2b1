"""Time calls by the wall clock and by the CPU time of the process, several sides in turn.

Terms:
    side    one implementation of a case, such as jaxseg or torchvision
    round   one sample of every side, in turn, so that what else the machine does meets all alike
    sample  the mean of a few calls in sequence, which are awaited together
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

WARM_UP_CALLS, WARM_UP_SECONDS = 3, 1.0
"""Each side is called before it is timed, until one of the two is reached."""
SAMPLE_SECONDS, MOST_CALLS = 0.05, 20
"""A sample of short calls has as many as take this time, at most this number."""


class Side(NamedTuple):
    """One implementation of a case: a call that starts the work, and a wait for its result."""

    call: Callable[[], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready


class Sample(NamedTuple):
    """Seconds of one call."""

    wall: float
    cpu: float
    """Of all threads of the process."""


def time_sides(sides: Mapping[str, Side], steps: int, seconds: float) -> dict[str, list[Sample]]:
    """Take one sample of each side in turn, `steps` times or until `seconds` have passed.

    The round in which the time passes is completed, so that every side has at least one sample.
    """
    started = time.perf_counter()
    calls = {name: _warm_up(side) for name, side in sides.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    gc.collect()
    for _ in range(steps):
        for name, side in sides.items():
            samples[name].append(_sample(side, calls[name]))
        if time.perf_counter() - started > seconds:
            break
    return samples


def median(samples: list[Sample]) -> Sample:
    """Return the medians of wall time and CPU time."""
    return Sample(*(statistics.median(values) for values in zip(*samples, strict=True)))


def _warm_up(side: Side) -> int:
    """Call a side a few times, and return the number of calls for a sample."""
    seconds: list[float] = []
    while len(seconds) < WARM_UP_CALLS and sum(seconds) < WARM_UP_SECONDS:
        seconds.append(_sample(side, 1).wall)
    return max(1, min(MOST_CALLS, int(SAMPLE_SECONDS / seconds[-1])))


def _sample(side: Side, calls: int) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        result = side.call()
    side.wait(result)
    del result  # before the clock is read: torch frees its memory here
    return Sample((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)
