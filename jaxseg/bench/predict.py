"""The whole prediction of each model, on one device."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxseg import ops
from jaxseg.bench.context import Context
from jaxseg.bench.machine import tolerance
from jaxseg.bench.memory import host_peak, on_host, program_peak
from jaxseg.bench.peer import Variant, add_variants
from jaxseg.bench.peer_model import can_build, peer_predict
from jaxseg.bench.program import compile_program
from jaxseg.bench.results import OURS, Case, Comparison, Figures, Prepared
from jaxseg.bench.timing import Side
from jaxseg.types import Detections, MaskFrame

NOT_PASTED = f"{OURS}, masks not pasted"


def cases(context: Context) -> Iterable[Case]:
    """Return a case for each model. Box masks are pasted into the image, as torchvision does."""
    for name in context.settings.models:
        yield Case(name, functools.partial(_prepare, context, name))


def _prepare(context: Context, name: str) -> Prepared:
    model = context.models[name]
    program = model.predict_program
    batch = model.batch
    arguments = program.put(model.variables, batch.images, batch.image_size)

    def predict() -> Detections:
        return program.run(*arguments)

    found = jax.tree.map(np.asarray, predict())
    detections = f"{found.valid.sum() / len(found.valid):.0f}"
    sides, figures = {OURS: Side(predict)}, {OURS: program.figures()}
    if found.mask_frame not in (None, MaskFrame.IMAGE):
        paste = _compile_paste(found, context.settings.size)

        def pasted() -> Any:
            found = predict()
            return found, paste(found.masks, found.boxes)

        sides = {OURS: Side(pasted), NOT_PASTED: Side(predict)}
        figures[NOT_PASTED] = {}
    for name in sides:
        figures[name]["detections an image"] = detections
    figures[OURS] |= _peak(sides[OURS], program.run)
    prepared = Prepared(sides, figures, images=context.settings.batch, flop=program.flop)
    peer = context.peer if can_build(model) else None

    def make(variant: Variant) -> Callable[[], Any]:
        assert peer is not None
        return peer_predict(peer, variant, model)

    calls = add_variants(peer, prepared, make)

    def compare() -> Iterable[Comparison]:
        for call in calls:
            assert peer is not None
            theirs = [peer.array(x["scores"]) for x in call()]
            ours = [s[v] for s, v in zip(found.scores, found.valid, strict=True)]
            for image, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                same = np.abs(a - b).max(initial=0.0) if len(a) == len(b) else float("inf")
                what = f"scores of image {image}, {len(a)} and {len(b)} detections"
                yield Comparison(what, float(same), tolerance(context.settings.dtype))

    prepared.compare = compare
    return prepared


def _compile_paste(found: Detections, size: tuple[int, int]) -> Any:
    """Compile the pasting of all masks into images of `size`."""
    assert found.mask_frame is not None
    how: Any = found.mask_frame.value
    paste = jax.vmap(lambda m, b: ops.paste_masks(m, b, size, paste=how))
    return compile_program(paste, found.masks, found.boxes).run


def _peak(side: Side, compiled: Any) -> Figures:
    peak = host_peak(side) if on_host() else program_peak(compiled)
    return {} if peak is None else {"peak, GiB": peak}
