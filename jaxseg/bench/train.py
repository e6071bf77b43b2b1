"""The training step of each model, on one device."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxseg.bench.context import Context
from jaxseg.bench.memory import host_peak, on_host, program_peak
from jaxseg.bench.models import USED_SLOTS
from jaxseg.bench.peer import Variant, add_variants
from jaxseg.bench.peer_model import can_build, peer_step
from jaxseg.bench.results import OURS, Case, Comparison, Figures, Prepared
from jaxseg.bench.timing import Side

LOSS_TOLERANCE = 0.3
"""Largest relative difference of a loss: each side draws its own random anchors and RoIs."""


def cases(context: Context) -> Iterable[Case]:
    """Return a case for each model."""
    settings = context.settings
    for name in settings.models:
        case = f"{name}, {settings.objects} objects in {settings.slots} slots"
        yield Case(case, functools.partial(_prepare, context, name))


def _prepare(context: Context, name: str) -> Prepared:
    model = context.models[name]
    program = model.step_program
    state, batch = program.put(model.state(), model.batch)
    first: dict[str, Any] = {}

    def call() -> Any:
        nonlocal state
        state, metrics = program.run(state, batch)
        first.setdefault("metrics", metrics)
        return metrics

    side = Side(call)
    peak = host_peak(side) if on_host() else program_peak(program.run)
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    metrics = {key: float(value) for key, value in first["metrics"].items()}
    figures: Figures = {
        **program.figures(),
        "state, GiB": held / 2**30,
    }
    if USED_SLOTS in metrics:
        slots = model.mask_slots * context.settings.batch
        figures["mask slots used"] = f"{metrics[USED_SLOTS]:.0f} of {slots}"
    if peak is not None:
        figures["peak, GiB"] = peak
    prepared = Prepared(
        {OURS: side}, {OURS: figures}, images=context.settings.batch, flop=program.flop
    )
    peer = context.peer if can_build(model) else None
    theirs: dict[str, float] = {}

    def make(variant: Variant) -> Callable[[], Any]:
        assert peer is not None
        return peer_step(peer, variant, model, {} if variant.amp else theirs)

    add_variants(peer, prepared, make, gradients=True)

    def compare() -> Iterable[Comparison]:
        for loss, value in theirs.items():
            difference = abs(metrics[loss] - value) / max(abs(value), 1e-6)
            yield Comparison(f"loss {loss}", difference, LOSS_TOLERANCE)

    prepared.compare = compare
    return prepared
