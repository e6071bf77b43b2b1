"""How the time of a model grows: with pixels, proposals, objects, images and devices.

Everything is compiled anew for each point, except for the number of objects.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxseg.bench.context import Context
from jaxseg.bench.inputs import random_batch
from jaxseg.bench.models import BenchModel
from jaxseg.bench.results import OURS, Case, Prepared, Skipped
from jaxseg.bench.settings import Settings
from jaxseg.bench.timing import Side
from jaxseg.heads.rcnn import TwoStageConfig
from jaxseg.models.solov2 import SOLOv2Config

SIZES, BATCHES, PROPOSALS, OBJECTS = (0.5, 1.0, 1.5), (1, 2, 4), (0.25, 0.5, 1.0), (0, 8, 32, 100)


def cases(context: Context) -> Iterable[Case]:
    """Return the cases of each model of the run."""
    settings = context.settings
    for name in settings.models:
        yield from _model_cases(context, name, settings)


def _model_cases(context: Context, name: str, settings: Settings) -> Iterable[Case]:
    def case(what: str, prepare: Callable[..., Prepared], *arguments: Any) -> Case:
        return Case(f"{name}, {what}", functools.partial(prepare, context, name, *arguments))

    for factor in SIZES:
        size = (_round32(settings.size[0] * factor), _round32(settings.size[1] * factor))
        changed = dataclasses.replace(settings, size=size)
        yield case(f"predict {size[0]}x{size[1]}", _predict, changed)
    for batch in BATCHES:
        changed = dataclasses.replace(settings, batch=batch)
        yield case(f"predict {batch} images", _predict, changed)
    for share in PROPOSALS:
        yield case(f"predict, {share:.0%} of the proposals", _predict_proposals, share)
    for objects in OBJECTS:
        if objects <= settings.slots:
            yield case(f"step, {objects} objects", _step_objects, objects)
    devices = 1
    while devices <= jax.device_count():
        images = devices * settings.batch
        yield case(f"step, {devices} devices, {images} images", _step_devices, devices)
        devices *= 2


def _round32(side: float) -> int:
    return max(32, round(side / 32) * 32)


def _predict(context: Context, name: str, settings: Settings) -> Prepared:
    config = context.models[name].config
    return _predict_side(BenchModel(name, config, settings))


def _predict_side(model: BenchModel) -> Prepared:
    program, batch = model.predict_program, model.batch
    arguments = program.put(model.variables, batch.images, batch.image_size)
    return Prepared(
        {OURS: Side(lambda: program.run(*arguments))},
        {OURS: program.figures()},
        images=len(batch.images),
        flop=program.flop,
    )


def _predict_proposals(context: Context, name: str, share: float) -> Prepared:
    config = context.models[name].config
    if isinstance(config, TwoStageConfig):
        count = max(1, round(share * config.rpn.post_nms_topk_test))
        rpn = dataclasses.replace(config.rpn, post_nms_topk_test=count)
        changed: Any = dataclasses.replace(config, rpn=rpn)
    elif isinstance(config, SOLOv2Config):
        count = max(1, round(share * config.pre_nms_topk))
        changed = dataclasses.replace(config, pre_nms_topk=count)
    else:
        raise Skipped("the model has no proposals")
    prepared = _predict_side(BenchModel(name, changed, context.settings))
    prepared.figures[OURS]["proposals"] = str(count)
    return prepared


def _step_objects(context: Context, name: str, objects: int) -> Prepared:
    settings, model = context.settings, context.models[name]
    changed = dataclasses.replace(settings, objects=objects)
    batch = BenchModel(name, model.config, changed).batch
    return _step_side(model, model.step_program, batch)


def _step_devices(context: Context, name: str, devices: int) -> Prepared:
    settings, model = context.settings, context.models[name]
    batch = random_batch(
        model.model,
        devices * settings.batch,
        settings.size,
        settings.objects,
        settings.slots,
        model.config.num_classes,
    )
    program = model.step_program if devices == 1 else model.compile_step(devices, batch)
    return _step_side(model, program, batch)


def _step_side(model: BenchModel, program: Any, batch: Any) -> Prepared:
    state, batch = program.put(model.state(), batch)

    def call() -> Any:
        nonlocal state
        state, metrics = program.run(state, batch)
        return metrics

    return Prepared(
        {OURS: Side(call)},
        {OURS: program.figures()},
        images=len(batch.images),
        flop=program.flop,
    )
