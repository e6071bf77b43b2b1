"""The training batches of a COCO folder, as the pipeline makes them on the host."""

import functools
import itertools
from collections.abc import Iterable

from jaxseg.bench.context import Context
from jaxseg.bench.results import OURS, Case, Prepared, Skipped
from jaxseg.bench.timing import Side
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec

TARGETS = {
    "crops of masks (Mask R-CNN)": TargetSpec(masks=BoxCrops(112)),
    "masks of the image (SOLOv2)": TargetSpec(masks=ImageMasks(4), centers=True),
}


def cases(context: Context) -> Iterable[Case]:
    """Return a case for each kind of targets, in this process and with two workers."""
    if context.settings.data is None:
        yield Case("training batches", _skip)
        return
    for (name, targets), workers in itertools.product(TARGETS.items(), (0, 2)):
        case = f"{name}, {workers} workers"
        yield Case(case, functools.partial(_prepare, context, targets, workers))


def _skip() -> Prepared:
    raise Skipped("no data: give a COCO folder by --data DIR")


def _prepare(context: Context, targets: TargetSpec, workers: int) -> Prepared:
    settings = context.settings
    assert settings.data is not None
    from jaxseg.data import DataConfig, folder_config, train_batches

    size = settings.size
    config = DataConfig(
        source=folder_config(settings.data),
        buckets=tuple(dict.fromkeys((size, size[::-1]))),
        min_size=min(size),
        max_size=max(size),
        num_workers=workers,
    )
    batches = train_batches(
        config.source.open("train"), config, targets, batch_size=settings.batch, seed=0
    )
    next(batches)  # starts threads and workers
    return Prepared(
        {OURS: Side(lambda: next(batches), lambda batch: batch)},
        images=settings.batch,
        close=batches.close,
    )
