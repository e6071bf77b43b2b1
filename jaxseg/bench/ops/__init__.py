"""The operations of `jaxseg.ops`, at the sizes that models call them with."""

import functools
from collections.abc import Iterable

from jaxseg.bench.context import Context
from jaxseg.bench.ops import boxes, masks, roi_align
from jaxseg.bench.results import Case


def cases(context: Context) -> Iterable[Case]:
    """Return the cases of the group."""
    settings = context.settings
    rois = f"RoIAlign, {settings.rois} boxes, 7x7x{settings.channels}"
    target = f"mask targets, {masks.POSITIVES} RoIs, {masks.TARGET}x{masks.TARGET}"
    size = f"{settings.size[0]}x{settings.size[1]}"
    for name, prepare in (
        (f"{rois}: forward", roi_align.forward),
        (f"{rois}: sum of the output and gradient returned", roi_align.summed),
        (f"{rois}: output and gradient returned", roi_align.returned),
        (f"NMS, {boxes.LEVELS} levels of {settings.candidates} boxes", boxes.nms),
        (f"IoU and matching, all anchors x {settings.slots} objects", boxes.matching),
        (f"{target}, from crops", masks.crop_targets),
        (f"{target}, from whole masks", masks.bitmap_targets),
        (f"paste {settings.slots} masks, {size}", masks.paste),
        (f"{settings.slots} masks to RLE on the host, {size}", masks.rle),
    ):
        yield Case(name, functools.partial(prepare, context))
