"""The processes of a run, by `jax.distributed`; a run on one machine has a single one."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def connect(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of a run, before anything else is done with JAX.

    `coordinator_address` is the `address:port` of process 0. What is not given is
    taken from the cluster's environment (SLURM, Open MPI, TPU pods).
    """
    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=30
    )


def is_process_failure(error: RuntimeError) -> bool:
    """Whether this is how JAX tells that something between the hosts of a run has failed, and not
    that a device is out of memory or a program wrong."""
    own = str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError) and not own


def process_index() -> int:
    """This process's number among the hosts of the run; 0 is the one that writes and prints."""
    return jax.process_index()


def process_count() -> int:
    """The number of processes that make up the run."""
    return jax.process_count()


def allgather_json(value: Any) -> list[Any]:
    """What each host passed (values that JSON can hold), in the order of the hosts."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([data.size]))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:n].tobytes()) for row, n in zip(everyone, sizes, strict=True)]
