"""Measure the memory that a call takes beyond what was held before it."""

import ctypes
import pathlib
import re
from typing import Any

import jax

from jaxseg.bench.timing import Side

GIB = 2**30
_STATUS = pathlib.Path("/proc/self/status")
_CLEAR_REFS = pathlib.Path("/proc/self/clear_refs")


def host_peak(side: Side) -> float | None:
    """Return by how many GiB the process grows, at most, while the side is called once.

    None where Linux's `/proc`, from which it is read, does not exist or allow it.
    """
    side.wait(side.call())
    _return_freed_memory()
    try:
        _CLEAR_REFS.write_text("5")  # resets the peak
        before = _kibibytes("VmRSS")
    except OSError:
        return None
    result = side.wait(side.call())
    peak = _kibibytes("VmHWM")
    del result
    return (peak - before) * 1024 / GIB


def program_peak(compiled: Any) -> float:
    """Return the GiB that a compiled program allocates: temporaries and results."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (memory.temp_size_in_bytes + results) / GIB


def on_host() -> bool:
    """Return whether the devices' memory is that of the process."""
    return jax.default_backend() == "cpu"


def _kibibytes(field: str) -> int:
    """Return a number of the kernel's status of this process."""
    (number,) = re.findall(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(number)


def _return_freed_memory() -> None:
    """Let the C library return what it has kept of freed memory, so that reuse shows as growth."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
