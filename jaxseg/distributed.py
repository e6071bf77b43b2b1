"""The processes of a run, connected by `jax.distributed`; a run on one machine has a single one."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class ProcessLostError(RuntimeError):
    """Another process or the connection to it failed."""


def connect(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connect this process to the others of a run. Call it before any other use of JAX.

    Args:
        coordinator_address: `address:port` on which process 0 listens.
        num_processes: number of processes of the run.
        process_id: index of this process, from 0.

    Arguments that are None are read from the cluster's environment (SLURM, Open MPI, TPU pods).
    Raises ProcessLostError if the others do not come within JAX's five minutes.
    """
    try:
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=30
        )
    except RuntimeError as error:
        raise ProcessLostError(first_line(error)) from error


def is_process_failure(error: RuntimeError) -> bool:
    """Return whether `error` reports that another process or the connection to it failed.

    False for a device that is out of memory and for a wrong program.
    """
    if isinstance(error, ProcessLostError):
        return True
    local = str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError) and not local


def process_index() -> int:
    """Return the index of this process in the run; process 0 writes files and prints."""
    return jax.process_index()


def process_count() -> int:
    """Return the number of processes of the run."""
    return jax.process_count()


def allgather_json(value: Any) -> list[Any]:
    """Return the JSON values that all processes passed, in the order of the processes.

    A collective: all processes must call it. Raises ProcessLostError if one of them is lost.
    """
    if jax.process_count() == 1:
        return [value]
    # Arrays of one shape are gathered: first the lengths, then texts padded to the longest.
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _allgather(np.asarray([data.size])).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    gathered = _allgather(padded).reshape(len(sizes), -1)  # [processes, longest]
    return [json.loads(row[:n].tobytes()) for row, n in zip(gathered, sizes, strict=True)]


def _allgather(array: np.ndarray) -> np.ndarray:
    """Return the arrays of all processes, stacked.

    The transports report a lost process by many types and codes. The arrays are small and their
    shapes agree, so nothing else can fail.
    """
    try:
        return np.asarray(multihost_utils.process_allgather(array))
    except (ValueError, RuntimeError, OSError) as error:
        raise ProcessLostError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, of at most 200 characters."""
    return str(error).partition("\n")[0][:200]
