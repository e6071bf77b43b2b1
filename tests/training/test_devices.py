"""The same step on any number of devices and processes, each case in processes of its own."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

BOUND = 5e-6
"""Largest difference of a parameter between two orders of summation in float32, after a step that
changes parameters by up to about 0.1."""


def start(
    out, model, transform="pmap", devices=1, *, norm="sync_batch", microbatches=1, cluster=()
):
    """Start `tests.training.one_step`; `cluster` is the address, number and index of processes."""
    local = devices // (int(cluster[1]) if cluster else 1)
    flags = f"--xla_force_host_platform_device_count={local}"
    arguments = [out, model, norm, transform, devices, microbatches, *cluster]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.one_step", *map(str, arguments)],
        env=os.environ
        | {
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        },
    )


def one_step(out, *arguments, **options):
    assert start(out, *arguments, **options).wait() == 0
    return dict(np.load(out))


def assert_close(found, expected, what):
    assert found.keys() == expected.keys()
    worst = max(float(np.abs(found[name] - expected[name]).max()) for name in expected)
    print(f"{what}: largest difference {worst:.1e}")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=BOUND, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mask_rcnn", "solov2"])
def test_any_number_of_devices_with_either_transform_makes_the_same_step(tmp_path, model):
    expected = one_step(tmp_path / "one.npz", model)
    for transform in ("pmap", "shard_map"):
        for devices in (2, 4, 8):
            found = one_step(tmp_path / "many.npz", model, transform, devices)
            assert_close(found, expected, f"{model}, {transform}, {devices} devices")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mask_rcnn", "solov2"])
def test_four_microbatches_make_the_step_of_the_whole_batch(tmp_path, model):
    # Group norm, since the statistics of batch norm are those of a microbatch.
    whole = one_step(tmp_path / "whole.npz", model, norm="group")
    for devices in (1, 2):
        options = {"norm": "group", "microbatches": 4}
        found = one_step(tmp_path / "microbatches.npz", model, "pmap", devices, **options)
        assert_close(found, whole, f"{model}, 4 microbatches on {devices} device(s)")


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_two_processes_make_the_step_of_one(tmp_path, transform):
    expected = one_step(tmp_path / "one.npz", "mask_rcnn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        start(tmp_path / "two.npz", "mask_rcnn", transform, 4, cluster=(address, 2, index))
        for index in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    found = dict(np.load(tmp_path / "two.npz"))
    assert_close(found, expected, f"two processes of two devices, {transform}")
