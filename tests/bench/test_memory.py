"""The memory of a call."""

import pathlib

import numpy as np
import pytest

from jaxseg.bench.memory import host_peak
from jaxseg.bench.timing import Side


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_of_a_call_is_what_it_holds_at_once():
    def hold(mebibytes):
        return np.ones(mebibytes * 2**20, np.uint8)

    def call():
        hold(256)  # freed before the next
        return hold(64), hold(64)

    hold(512)  # the peak of before is not counted
    peak = host_peak(Side(call, wait=lambda result: result))
    assert 0.24 < peak < 0.27
