"""Devices to compile for, described by a name instead of found in this machine.

cpu                this machine's CPU
tpu:v5e:2x2        a TPU generation and its arrangement of chips, as libtpu names them
cuda:h100          an NVIDIA GPU of `GPUS`, or `cuda:FILE` with a target config of XLA
"""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.experimental import topologies

H100 = """\
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 85000000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 8 }
"""
"""The H100 SXM of NVIDIA's data sheet and the CUDA programming guide (compute capability 9.0)."""
GPUS = {"h100": H100}


@dataclasses.dataclass(frozen=True)
class Chip:
    """Public figures of an accelerator, from Google's "Cloud TPU" and NVIDIA's data sheets."""

    peak_flops: float
    """Products in bfloat16."""
    bandwidth: float
    """Bytes a second of the device's memory."""
    clock: float | None = None
    """Hertz. The peak divided by the multiply-adds of the matrix units: v5e has four of 128x128."""


CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 819e9, 1.5e9),
    "TPU v5": Chip(459e12, 2765e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 1640e9, 1.75e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9),
}
"""By JAX's `device_kind`. v4 and v5 (v5p) have two cores, which work as one device."""


def devices(topology: str, count: int) -> list[Any]:
    """Return the first `count` devices of a topology. Raises ValueError for an unknown one."""
    platform, _, name = topology.partition(":")
    if platform == "cpu":
        jax.config.update("jax_num_cpu_devices", count)
        found = list(jax.devices("cpu"))
    elif platform == "tpu":
        found = _described(topology, "tpu", "[tpu]", topology_name=name)
    elif platform == "cuda":
        config = GPUS.get(name) or pathlib.Path(name).read_text()
        found = _described(
            topology, "cuda", "[cuda]", target_config=config, topology=f"1x1x{count}"
        )
    else:
        raise ValueError(f"topology {topology!r}: give cpu, tpu:NAME or cuda:NAME")
    if len(found) < count:
        raise ValueError(f"topology {topology!r} has {len(found)} devices, not {count}")
    return found[:count]


def _described(asked: str, platform: str, extra: str, **settings: str) -> list[Any]:
    try:
        return list(topologies.get_topology_desc(platform=platform, **settings).devices)
    except Exception as error:  # its type depends on the plugin
        raise ValueError(
            f"topology {asked!r} is unknown, or its compiler is not installed "
            f"(pip install -e '.{extra}'): {error}"
        ) from error
