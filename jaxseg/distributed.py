"""The processes of a run, by `jax.distributed`; a run on one machine has a single one."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def connect(coordinator: str | None, hosts: int | None, host: int | None) -> None:
    """Joins the other processes of a run, before anything else is done with JAX.

    `coordinator` is the `address:port` of host 0, `hosts` their number and `host` this one's. What
    is not given is taken from the cluster's environment (SLURM, Open MPI, TPU pods).
    """
    jax.distributed.initialize(coordinator, hosts, host, heartbeat_timeout_seconds=30)


def lost_host(error: RuntimeError) -> bool:
    """Whether this is how JAX tells that something between the hosts of a run has failed, and not
    that a device is out of memory or a program wrong."""
    own = str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError) and not own


def host_index() -> int:
    """This process's number among the hosts of the run; 0 is the one that writes and prints."""
    return jax.process_index()


def host_count() -> int:
    """The number of processes that make up the run."""
    return jax.process_count()


def gather(value: Any) -> list[Any]:
    """What each host passed (values that JSON can hold), in the order of the hosts."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([data.size]))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:n].tobytes()) for row, n in zip(everyone, sizes, strict=True)]
