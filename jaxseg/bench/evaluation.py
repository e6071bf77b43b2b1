"""The evaluation on the host: detections to masks of the original images, and COCO's metrics."""

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


def cases(context: Context) -> Iterable[Case]:
    """Return two cases for masks in boxes, and two for masks of the image (SOLOv2's)."""
    settings = context.settings
    for frame, name in (
        (MaskFrame.GRID_SAMPLE, "masks in boxes"),
        (MaskFrame.IMAGE, "masks of the image"),
    ):
        case = f"{name}, {settings.slots} an image"
        yield Case(f"{case}: to RLE", functools.partial(_to_predictions, settings, frame))
        yield Case(f"{case}: COCO's metrics", functools.partial(_metrics, settings, frame))


def _to_predictions(settings: Settings, frame: MaskFrame) -> Prepared:
    from jaxseg.evaluation import coco_results, to_predictions

    batches = _batches(settings, frame)

    def call() -> Any:
        return [
            coco_results(to_predictions(detections, batch), range(1, CLASSES + 1))
            for detections, batch in batches
        ]

    return Prepared({OURS: Side(call, lambda result: result)}, images=settings.images)


def _metrics(settings: Settings, frame: MaskFrame) -> Prepared:
    from jaxseg.evaluation import coco_results, evaluate, to_predictions

    results = [
        result
        for detections, batch in _batches(settings, frame)
        for result in coco_results(to_predictions(detections, batch), range(1, CLASSES + 1))
    ]
    truth = _ground_truth(settings, results)
    side = Side(lambda: evaluate(truth, results), lambda result: result)
    return Prepared({OURS: side}, images=settings.images)


def _batches(settings: Settings, frame: MaskFrame) -> list[tuple[Detections, EvalBatch]]:
    """Return detections, ellipses in random boxes, and their batches of one image each."""
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
            "mask_frame": frame,
        }
        batch = EvalBatch(
            images=np.zeros((1, *size, 3), np.uint8),
            image_size=np.asarray([size], np.int32),
            original_size=np.asarray([ORIGINAL], np.int32),
            image_id=np.asarray([number + 1], np.int32),
            valid=np.ones(1, bool),
        )
        batches.append((Detections(**fields), batch))
    return batches


def _ground_truth(settings: Settings, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return COCO annotations: of each image, its first detections."""
    chosen = [
        result
        for image in range(1, settings.images + 1)
        for result in [r for r in results if r["image_id"] == image][: settings.objects]
    ]
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
            {"id": i, "height": ORIGINAL[0], "width": ORIGINAL[1]}
            for i in range(1, settings.images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
    }
