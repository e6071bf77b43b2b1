"""Compile functions, and state what the compiler says of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxseg.bench.memory import GIB
from jaxseg.bench.results import Figures


class Program(NamedTuple):
    """A compiled function and the cost of making and running it."""

    run: Any
    """JAX's `Compiled`, called like the function."""
    trace_seconds: float
    compile_seconds: float
    flop: float
    """Floating-point operations of a call, by XLA's count before optimisation. It counts the body
    of a loop once."""

    def figures(self) -> Figures:
        """Return the columns of a table."""
        memory = self.run.memory_analysis()
        return {
            "compile, s": self.compile_seconds,
            "temporaries, GiB": memory.temp_size_in_bytes / GIB,
            "TFLOP": self.flop / 1e12,
        }

    def put(self, *arguments: Any) -> tuple[Any, ...]:
        """Copy arguments to where the program expects them."""
        return jax.device_put(arguments, self.run.input_shardings[0])


Options = Mapping[str, int]
"""XLA's compiler options, as `jax.stages.Lowered.compile` takes them."""


def compile_program(
    function: Callable[..., Any], *arguments: Any, options: Options | None = None
) -> Program:
    """Compile a function for the shapes of its arguments."""
    return compile_lowered(lambda: jax.jit(function).lower(*arguments), options)


def compile_lowered(lower: Callable[[], Any], options: Options | None = None) -> Program:
    """Compile what `lower` returns, JAX's `Lowered`."""
    started = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile(dict(options or {}))
    compile_seconds = time.perf_counter() - traced
    cost = lowered.cost_analysis() or {}
    return Program(compiled, traced - started, compile_seconds, float(cost.get("flops", 0.0)))
