"""`jaxseg env`: what one has to know of a machine to understand a problem on it, as text."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import jax

import jaxseg
from jaxseg.distributed import first_line

GIB = 2**30
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "grain",
    "tensorflow-datasets",
    "pycocotools",
    "opencv-python-headless",
    "pillow",
    "tyro",
)
"""The distributions whose versions are printed."""
VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "TPU_", "NCCL_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""The beginnings of the names of environment variables that are printed."""


def environment() -> Iterator[str]:
    """Yield versions, machine, settings and devices as lines `name: value`.

    The devices are last: a wrong setting of XLA ends the process when they are looked for. An error
    then is a line as well.
    """
    for name, value in (*_versions(), *_machine(), *_variables()):
        yield _line(name, value)
    for name, value in _devices():
        yield _line(name, value)


def _line(name: str, value: str) -> str:
    return f"{name + ':':<24}{value}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "jaxseg", f"{jaxseg.__version__} in {os.path.dirname(jaxseg.__file__)}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"


def _machine() -> Iterator[tuple[str, str]]:
    yield "platform", platform.platform()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "CPUs", f"{os.cpu_count()}, of which this process may use {usable}"
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield "memory", f"{size / GIB:.1f} GiB"
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        yield "memory", "unknown"


def _devices() -> Iterator[tuple[str, str]]:
    try:
        devices = jax.devices()
    except RuntimeError as error:  # a driver or plugin that does not fit
        yield "devices", f"none: {first_line(error)}"
        return
    yield "backend", jax.default_backend()
    for device in devices:
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        memory = f", {limit / GIB:.1f} GiB for JAX" if limit else ""
        yield f"device {device.id}", f"{device.device_kind}{memory}"


def _variables() -> Iterator[tuple[str, str]]:
    for name in sorted(os.environ):
        if name.startswith(VARIABLES):
            yield name, os.environ[name]
