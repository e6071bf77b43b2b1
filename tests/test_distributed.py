"""Failures of the other processes of a run."""

import jax
import pytest

from jaxseg import distributed
from jaxseg.distributed import ProcessLostError, is_process_failure


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("UNAVAILABLE: connection reset by peer", True),
        ("RESOURCE_EXHAUSTED: out of memory", False),
        ("INVALID_ARGUMENT: shapes", False),
    ],
)
def test_a_device_without_memory_is_no_process_failure(monkeypatch, message, expected):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert is_process_failure(jax.errors.JaxRuntimeError(message)) is expected


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_a_process_lost_in_an_exchange_is_a_process_failure(monkeypatch, error):
    def lost(array):
        raise error("INVALID_ARGUMENT: Connection closed by peer [127.0.0.1]:1\nmore")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lost)
    with pytest.raises(ProcessLostError, match="closed by peer") as raised:
        distributed.allgather_json("x")
    assert is_process_failure(raised.value)
