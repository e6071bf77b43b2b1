"""Measure the memory that a call takes beyond what was held before it."""

import ctypes
import pathlib
import threading
from typing import Any

import jax

from jaxseg.bench.timing import Side

GIB = 2**30
_STATM = pathlib.Path("/proc/self/statm")
_PAGE = 4096
_SECONDS = 0.002


def host_peak(side: Side) -> float | None:
    """Return by how many GiB the process grows, at most, while the side is called once.

    None where the system does not tell (it is read from Linux's `/proc`).
    """
    if not _STATM.exists():
        return None
    side.wait(side.call())
    _return_freed_memory()
    before = highest = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(_SECONDS):
            highest = max(highest, _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = side.wait(side.call())
    finally:
        done.set()
        watcher.join()
    del result
    return (highest - before) / GIB


def program_peak(compiled: Any) -> float:
    """Return the GiB that a compiled program allocates: temporaries and results."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.temp_size_in_bytes + results) / GIB


def on_host() -> bool:
    """Return whether the devices' memory is that of the process."""
    return jax.default_backend() == "cpu"


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * _PAGE


def _return_freed_memory() -> None:
    """Let the C library return what it has kept of freed memory, so that reuse shows as growth."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
