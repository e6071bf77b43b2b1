"""The sides of a case of the operations, and the differences between their results."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxseg.bench.context import Context
from jaxseg.bench.machine import tolerance
from jaxseg.bench.memory import host_peak, on_host, program_peak
from jaxseg.bench.ops.peer import PeerOps
from jaxseg.bench.peer import Variant, add_variants
from jaxseg.bench.program import compile_program
from jaxseg.bench.results import OURS, Comparison, Figures, Prepared
from jaxseg.bench.timing import Side

FLIPPED = 1e-3
"""Largest fraction of decisions that rounding may turn between two sides."""


def device_case(context: Context, function: Any, *arguments: Any) -> tuple[Prepared, Any]:
    """Compile a function; return jaxseg's side of a case, and a call that returns the results."""
    program = compile_program(function, *arguments, options=context.settings.compiler_options)
    placed = program.put(*arguments)

    def call() -> Any:
        return program.run(*placed)

    side = Side(call)
    peak = host_peak(side) if on_host() else program_peak(program.run)
    figures: Figures = {} if peak is None else {"peak, GiB": peak}
    prepared = Prepared({OURS: side}, {OURS: {**figures, "compile, s": program.compile_seconds}})
    return prepared, lambda: jax.tree.map(np.asarray, call())


def add_peer(
    context: Context,
    prepared: Prepared,
    make: Callable[[PeerOps], Callable[[], Any]],
    *,
    gradients: bool = False,
) -> list[Callable[[], Any]]:
    """Add torchvision's sides, whose calls `make` returns; see `add_variants`."""
    peer = context.peer

    def make_variant(variant: Variant) -> Callable[[], Any]:
        assert peer is not None
        return make(PeerOps(peer, variant))

    return add_variants(peer, prepared, make_variant, gradients=gradients)


def largest_difference(context: Context, what: str, ours: Any, theirs: Any) -> Comparison:
    """Compare arrays by their largest difference, relative to the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    return Comparison(what, float(difference), tolerance(context.settings.dtype))


def different_fraction(what: str, ours: np.ndarray, theirs: np.ndarray) -> Comparison:
    """Compare decisions by the fraction of those that differ."""
    return Comparison(f"the fraction of {what}", float((ours != theirs).mean()), FLIPPED)
