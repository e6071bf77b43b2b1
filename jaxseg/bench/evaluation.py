"""The evaluation on the host: detections to masks of the original images, and COCO's metrics.

The first runs in threads, several images at once, as behind a device. The second has a part that
takes as long for one image as for thousands, so more images are measured.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxseg.bench import inputs
from jaxseg.bench.context import Context
from jaxseg.bench.results import OURS, Case, Prepared
from jaxseg.bench.settings import Settings
from jaxseg.bench.timing import Side
from jaxseg.types import Detections, EvalBatch, MaskFrame

ORIGINAL = (480, 640)
"""Size of the original images, the most common one in COCO."""
CLASSES = 80
METRICS_REPEATS = 10
"""How often the images' detections are repeated for COCO's metrics."""


def cases(context: Context) -> Iterable[Case]:
    """Return the cases: masks in boxes and masks of the image (SOLOv2's), and the metrics."""
    settings = context.settings
    for frame, name in (
        (MaskFrame.GRID_SAMPLE, "masks in boxes"),
        (MaskFrame.IMAGE, "masks of the image"),
    ):
        case = f"{name}, {settings.slots} an image: to RLE"
        yield Case(case, functools.partial(_to_rles, settings, frame))
    for boundaries, name in ((False, "COCO's metrics"), (True, "the same and boundary AP")):
        case = f"{settings.slots} detections an image: {name}"
        yield Case(case, functools.partial(_metrics, settings, boundaries))


def _to_rles(settings: Settings, frame: MaskFrame) -> Prepared:
    batches = _batches(settings, frame)
    side = Side(lambda: _results(batches), lambda result: result)
    return Prepared({OURS: side}, images=settings.images)


def _metrics(settings: Settings, boundaries: bool) -> Prepared:
    from jaxseg.evaluation import evaluate

    found = _results(_batches(settings, MaskFrame.GRID_SAMPLE))
    results = [
        {**result, "image_id": result["image_id"] + repeat * settings.images}
        for repeat in range(METRICS_REPEATS)
        for result in found
    ]
    images = METRICS_REPEATS * settings.images
    truth = _ground_truth(settings, images, results)
    side = Side(lambda: evaluate(truth, results, boundaries=boundaries), lambda result: result)
    return Prepared({OURS: side}, images=images)


def _results(batches: list[tuple[Detections, EvalBatch]]) -> list[dict[str, Any]]:
    """Return the COCO results of what a device has returned."""
    from jaxseg.evaluation import coco_results
    from jaxseg.predictor import overlap

    return coco_results(list(overlap(batches)), range(1, CLASSES + 1))


def _batches(settings: Settings, frame: MaskFrame) -> list[tuple[Detections, EvalBatch]]:
    """Return detections, ellipses in random boxes, and their batches of one image each.

    Arrays of detections have an axis of one device before the batch's.
    """
    rng, size = np.random.default_rng(0), settings.size
    batches = []
    for number in range(settings.images):
        boxes = inputs.random_boxes(rng, (1, settings.slots), size)
        if frame is MaskFrame.IMAGE:
            masks = inputs.disc_masks(boxes, size, stride=4)
        else:
            whole = np.asarray([0, 0, inputs.MASK_SIDE, inputs.MASK_SIDE], np.float32)
            masks = inputs.disc_masks(np.broadcast_to(whole, boxes.shape), (inputs.MASK_SIDE,) * 2)
        fields: dict[str, Any] = {
            "boxes": boxes,
            "scores": -np.sort(-rng.random((1, settings.slots)).astype(np.float32)),
            "labels": rng.integers(0, CLASSES, (1, settings.slots)).astype(np.int32),
            "valid": np.ones((1, settings.slots), bool),
            "masks": masks.astype(np.float32),
        }
        fields = {key: value[None] for key, value in fields.items()}
        batch = EvalBatch(
            images=np.zeros((1, *size, 3), np.uint8),
            image_size=np.asarray([size], np.int32),
            original_size=np.asarray([ORIGINAL], np.int32),
            image_id=np.asarray([number + 1], np.int32),
            valid=np.ones(1, bool),
        )
        batches.append((Detections(**fields, mask_frame=frame), batch))
    return batches


def _ground_truth(settings: Settings, images: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return COCO annotations: of each image, its first detections."""
    first = [i for i in range(len(results)) if i % settings.slots < settings.objects]
    chosen = [results[i] for i in first]
    annotations = [
        {
            "id": number,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "bbox": result["bbox"],
            "segmentation": result["segmentation"],
            "area": result["bbox"][2] * result["bbox"][3],
            "iscrowd": 0,
        }
        for number, result in enumerate(chosen, start=1)
    ]
    return {
        "images": [
            {"id": i, "height": ORIGINAL[0], "width": ORIGINAL[1]} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
    }
