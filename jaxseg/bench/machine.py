"""Describe the machine, and measure the speeds that others are compared with."""

import os
import pathlib
import platform
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxseg
from jaxseg.bench.settings import Settings
from jaxseg.bench.timing import Side, median, time_sides


def describe_machine() -> dict[str, Any]:
    """Return what a reader has to know of the machine and of the versions, for the report."""
    config: Any = jax.config  # whose attributes type checkers do not know
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
        "processor": _processor(),
        "cores": usable,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jaxseg": jaxseg.__version__,
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "matmul_precision": config.jax_default_matmul_precision or "default",
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("XLA_", "OMP_", "JAX_"))
        },
    }


def matmul_side(settings: Settings) -> Side:
    """Return the product of square matrices in the run's dtype."""
    shape, dtype = (settings.matmul, settings.matmul), jnp.dtype(settings.dtype)
    a = jax.random.normal(jax.random.key(0), shape, dtype)
    product = jax.jit(jnp.matmul)
    return Side(lambda: product(a, a))


def matmul_flop(settings: Settings) -> float:
    """Return the floating-point operations of that product."""
    return 2.0 * settings.matmul**3


def measure_speeds(settings: Settings) -> dict[str, float]:
    """Return the speeds of a square product and of a copy, with their units."""
    array = jnp.zeros(settings.copy_mib * 2**18, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    sides = {"matmul": matmul_side(settings), "copy": Side(lambda: copy(array))}
    samples = time_sides(sides, steps=5, seconds=settings.seconds)
    return {
        "matmul, TFLOP/s": matmul_flop(settings) / median(samples["matmul"]).wall / 1e12,
        "copy, GB/s": 2 * array.nbytes / median(samples["copy"]).wall / 1e9,
    }


def tolerance(dtype: Literal["float32", "bfloat16"]) -> float:
    """Return the largest relative difference between two sides that compute the same.

    Accelerators compute float32 products in a shorter format, unless told otherwise.
    """
    return 1e-4 if dtype == "float32" and jax.default_backend() == "cpu" else 2e-2


def _processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
