"""torchvision beside jaxseg: whether it is there, how it is set up, and how a call is awaited."""

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.bench.memory import host_peak
from jaxseg.bench.results import Prepared, first_line
from jaxseg.bench.timing import Side

NAME = "torchvision"


class Variant(NamedTuple):
    """One way to run torchvision."""

    name: str
    amp: bool
    """Automatic mixed precision in bfloat16 and memory in the order channels last."""


class Peer:
    """torchvision on the CPU or the GPU.

    On a GPU there are two variants: float32 as torch has it by default, and mixed precision with
    channels last, the fastest that torch offers without compiling.
    """

    def __init__(self, device: str) -> None:
        import torch
        import torchvision

        self.torch, self.torchvision = torch, torchvision
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.variants = [Variant(NAME, amp=False)]
        if self.on_gpu:
            self.variants.append(Variant(f"{NAME}, AMP, channels last", amp=True))

    def describe(self) -> dict[str, Any]:
        """Return versions and settings, for the report."""
        torch = self.torch
        return {
            "torch": torch.__version__,
            "torchvision": self.torchvision.__version__,
            "torch_device": torch.cuda.get_device_name() if self.on_gpu else "cpu",
            "torch_threads": torch.get_num_threads(),
            "torch_tf32": [
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
            ],
        }

    def tensor(self, array: Any) -> Any:
        """Copy an array to torch's device."""
        return self.torch.from_numpy(np.array(array)).to(self.device)

    def maps(self, array: Any, variant: Variant) -> Any:
        """Copy maps `[B, h, w, C]` to torch's device as `[B, C, h, w]`."""
        tensor = self.tensor(np.asarray(array, np.float32)).permute(0, 3, 1, 2)
        if variant.amp:
            return tensor.to(self.torch.bfloat16)  # a permuted view is in the order channels last
        return tensor.contiguous()

    def array(self, tensor: Any) -> np.ndarray:
        """Copy a tensor to NumPy."""
        return tensor.detach().float().cpu().numpy()

    def autocast(self, variant: Variant) -> Any:
        """Return the context in which a variant runs."""
        if not variant.amp:
            return contextlib.nullcontext()
        return self.torch.autocast(self.device.type, self.torch.bfloat16)

    def side(self, call: Callable[[], Any], variant: Variant, *, gradients: bool = False) -> Side:
        """Return the side of a variant. Without `gradients` torch records none."""
        torch = self.torch

        def run() -> Any:
            with self.autocast(variant), contextlib.ExitStack() as stack:
                if not gradients:
                    stack.enter_context(torch.inference_mode())
                return call()

        return Side(run, self.wait)

    def wait(self, result: Any) -> Any:
        """Wait until the GPU has done all that was asked for."""
        if self.on_gpu:
            self.torch.cuda.synchronize()
        return result

    def gpu_peak(self, side: Side) -> float:
        """Return the GiB that a call allocates on the GPU, at most, beyond what is held."""
        cuda = self.torch.cuda
        cuda.synchronize()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        side.wait(side.call())
        return (cuda.max_memory_allocated() - before) / 2**30

    def free(self) -> None:
        """Return the memory that torch keeps for later to the GPU."""
        if self.on_gpu:
            self.torch.cuda.empty_cache()


def find_peer() -> tuple[Peer | None, str]:
    """Return torchvision on the chip that JAX uses, or None and the reason why it is not there.

    Call it before JAX uses a device.
    """
    try:
        torch, _ = map(importlib.import_module, ("torch", "torchvision"))
    except (ImportError, OSError) as error:  # OSError: a library that torch needs is missing
        return None, str(error).partition("\n")[0]
    # JAX would take most of a GPU's memory when it starts, and leave too little to torch.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    backend = jax.default_backend()
    if backend == "cpu":
        return Peer("cpu"), ""
    if backend == "gpu" and torch.cuda.is_available():
        return Peer("cuda"), ""
    return None, f"torch does not see the device that JAX uses, {jax.devices()[0].device_kind}"


def add_variants(
    peer: Peer | None,
    prepared: Prepared,
    make: Callable[[Variant], Callable[[], Any]],
    *,
    gradients: bool = False,
) -> list[Callable[[], Any]]:
    """Add the variants of torchvision to the sides of a case, with their memory.

    `make` returns the call of a variant. One that fails becomes a problem of the case. Returns the
    call in float32 as a list, empty without it: its results are compared.
    """
    compared: list[Callable[[], Any]] = []
    for variant in peer.variants if peer is not None else ():
        assert peer is not None
        try:
            side = peer.side(make(variant), variant, gradients=gradients)
            peak = peer.gpu_peak(side) if peer.on_gpu else host_peak(side)
        except Exception as error:
            prepared.problems[variant.name] = first_line(error)
            continue
        prepared.sides[variant.name] = side
        prepared.figures[variant.name] = {} if peak is None else {"peak, GiB": peak}
        if not variant.amp:
            compared.append(side.call)
    return compared
