"""Write COCO results and compute COCO metrics with pycocotools.

The twelve metrics (https://cocodataset.org/#detection-eval) are AP, AP50, AP75, AP for small,
medium and large objects, and AR for 1, 10 and 100 detections and by size. Their keys are `segm/AP`,
`bbox/AP50`, ...; `boundary/AP`, ... are those of masks whose boundaries must match too
(`jaxseg.evaluation.boundary`). A class's AP is `segm/AP/<name>`, or `segm/AP/<name> (id <id>)`
where several have the name. A metric without any object to evaluate is None.
"""

import collections
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg.evaluation.boundary import boundary_evaluator
from jaxseg.evaluation.predictions import Prediction

Metrics = dict[str, float | None]

METRIC_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
IOU_TYPES = {"bbox": "bbox", "segm": "segmentation"}
"""pycocotools' IoU types, and the field of a result that each one compares."""
METRIC_TYPES = (*IOU_TYPES, "boundary")
"""First part of the metrics' keys."""


def coco_results(
    predictions: Sequence[Prediction], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return predictions as a COCO result list, ready for `json.dump`.

    `category_ids[label]` is the dataset's id of a label. Predictions without masks give results
    without `segmentation`.
    """
    results = []
    for prediction in predictions:
        for i, (x1, y1, x2, y2) in enumerate(prediction.boxes.tolist()):
            result = {
                "image_id": prediction.image_id,
                "category_id": category_ids[int(prediction.labels[i])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(prediction.scores[i]),
            }
            if prediction.rles is not None:
                rle = prediction.rles[i]
                result["segmentation"] = {
                    "size": rle["size"],
                    "counts": rle["counts"].decode("ascii"),
                }
            results.append(result)
    return results


def from_coco_results(
    image_id: int, results: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> Prediction:
    """Return the prediction that one image's COCO results describe, the inverse of `coco_results`.

    `label_of` is the label of each category id.
    """
    xywh = np.asarray([result["bbox"] for result in results], np.float32).reshape(-1, 4)
    segmentations = [result["segmentation"] for result in results if "segmentation" in result]
    rles = [{**rle, "counts": rle["counts"].encode("ascii")} for rle in segmentations]
    return Prediction(
        image_id,
        np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        np.asarray([result["score"] for result in results], np.float32),
        np.asarray([label_of[result["category_id"]] for result in results], int),
        rles if len(rles) == len(results) else None,
    )


def evaluate(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    boundaries: bool = True,
) -> Metrics:
    """Compute COCO's metrics for boxes, masks and, if `boundaries`, boundaries.

    Results without `segmentation` (or `bbox`) are evaluated by their boxes (or masks) alone.
    Neither argument is changed.
    """
    # pycocotools prints tables, and writes into the annotations it is given, so it gets copies.
    # An object with the id 0 would count as unmatched.
    annotations = [{**a, "id": n} for n, a in enumerate(ground_truth["annotations"], start=1)]
    metrics: Metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _indexed({"info": {}, **ground_truth}, annotations)
        for iou_type, field in IOU_TYPES.items():
            if all(field in result for result in results):
                evaluator = COCOeval(truth, _load_results(truth, results, iou_type), iou_type)
                evaluator.evaluate()
                metrics |= _summarize(evaluator, iou_type)
                if iou_type == "segm" and boundaries:
                    metrics |= _summarize(boundary_evaluator(evaluator), "boundary")
    return metrics


def _summarize(evaluator: COCOeval, metric_type: str) -> Metrics:
    """Return the metrics of an evaluator that has compared all images, then each class's AP."""
    names = unique_names(evaluator.cocoGt.dataset["categories"])
    evaluator.accumulate()
    evaluator.summarize()
    metrics = {
        f"{metric_type}/{name}": _none_if_undefined(value)
        for name, value in zip(METRIC_NAMES, evaluator.stats, strict=True)
    }
    # [IoU threshold, recall, class, area range, detections]; here all areas and 100 detections.
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    for k, category_id in enumerate(evaluator.params.catIds):
        defined = precision[:, :, k]
        defined = defined[defined > -1]
        value = float(np.mean(defined)) if defined.size else -1.0
        metrics[f"{metric_type}/AP/{names[category_id]}"] = _none_if_undefined(value)
    return metrics


def unique_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return each category's name by its id; names that occur twice end with the id."""
    counts = collections.Counter(c["name"] for c in categories)
    return {
        c["id"]: c["name"] if counts[c["name"]] == 1 else f"{c['name']} (id {c['id']})"
        for c in categories
    }


def _load_results(truth: COCO, results: Sequence[Mapping[str, Any]], iou_type: str) -> COCO:
    """Return the results as a `COCO`; `loadRes` itself rejects an empty list."""
    if not results:
        return _indexed(truth.dataset, [])
    # With both fields, pycocotools would size the objects of "segm" by their boxes.
    omitted = {field for other, field in IOU_TYPES.items() if other != iou_type}
    return truth.loadRes([{k: v for k, v in r.items() if k not in omitted} for r in results])


def _indexed(dataset: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """Return a `COCO` of a dataset with other annotations."""
    coco = COCO()
    coco.dataset = {**dataset, "annotations": annotations}
    coco.createIndex()
    return coco


def _none_if_undefined(value: float) -> float | None:
    """Return None for -1, pycocotools' value where there is no object to evaluate."""
    return None if value < 0 else float(value)
