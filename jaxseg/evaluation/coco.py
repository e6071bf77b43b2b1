"""COCO's result format and COCO's figures, by pycocotools.

The twelve figures (https://cocodataset.org/#detection-eval) are AP, AP50, AP75, AP for
small, medium and large objects, and AR for 1, 10 and 100 detections and by size. They are
named `segm/AP`, `bbox/AP50`, ...; the AP of a class `segm/AP/<name>`. A figure without any
object to judge by is None.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg.evaluation.predictions import Prediction

Metrics = dict[str, float | None]

FIGURES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
KINDS = ("bbox", "segm")


def coco_results(
    predictions: Sequence[Prediction], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Predictions as a COCO result list, ready for `json.dump`.

    `category_ids[label]` is the data set's id of a label.
    """
    results = []
    for prediction in predictions:
        for box, score, label, rle in zip(
            prediction.boxes.tolist(),
            prediction.scores.tolist(),
            prediction.labels.tolist(),
            prediction.rles,
            strict=True,
        ):
            x1, y1, x2, y2 = box
            results.append(
                {
                    "image_id": prediction.image_id,
                    "category_id": category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )
    return results


def evaluate(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Metrics:
    """COCO's figures for boxes and masks. Both arguments are left as they are.

    Results without `bbox` or `segmentation` are judged by the other alone.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        # pycocotools writes into the annotations it is given, so it gets copies. An object with the
        # id 0 would count as one that nothing matched.
        annotations = [{**a, "id": n} for n, a in enumerate(ground_truth["annotations"], start=1)]
        truth.dataset = {"info": {}, **ground_truth, "annotations": annotations}
        truth.createIndex()
        metrics: Metrics = {}
        for kind in KINDS:
            field = "segmentation" if kind == "segm" else "bbox"
            if all(field in result for result in results):
                metrics |= _figures(truth, results, kind)
    return metrics


def _figures(truth: COCO, results: Sequence[Mapping[str, Any]], kind: str) -> Metrics:
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    evaluator = COCOeval(truth, _load_results(truth, results, kind), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    metrics = {
        f"{kind}/{name}": _figure(value)
        for name, value in zip(FIGURES, evaluator.stats, strict=True)
    }
    # precision: [IoU threshold, recall, class, area range, detections]; all areas, 100.
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    for number, category_id in enumerate(evaluator.params.catIds):
        defined = precision[:, :, number]
        defined = defined[defined > -1]
        value = float(np.mean(defined)) if defined.size else -1.0
        metrics[f"{kind}/AP/{names[category_id]}"] = _figure(value)
    return metrics


def _load_results(truth: COCO, results: Sequence[Mapping[str, Any]], kind: str) -> COCO:
    """The results as a `COCO`. `loadRes` itself refuses an empty list."""
    if results:
        # For masks the boxes must go: with both, pycocotools would size objects by the box.
        keep = {"bbox": ("segmentation",), "segm": ("bbox",)}[kind]
        chosen = [{k: v for k, v in result.items() if k not in keep} for result in results]
        return truth.loadRes(chosen)
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _figure(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to judge by."""
    return None if value < 0 else float(value)
