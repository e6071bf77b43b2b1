"""Ground truth beside a prediction: one colour for each object, missed and false ones marked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as mask_api

from jaxseg import data, evaluation
from jaxseg.visualize.draw import (
    GREY,
    RED,
    draw_instances,
    instance_color,
    select_certain,
    side_by_side,
)

MIN_IOU = 0.5
"""Least IoU of an object and the prediction that finds it."""


def match_instances(
    truth: data.Example, prediction: evaluation.Prediction
) -> Int[np.ndarray, " n"]:
    """Return the index of the object that each of n predictions finds; -1 for a false one.

    As in COCO's evaluation, the best predictions choose first, each the object of its class with
    the largest IoU that is not found yet; it must be at least one half. A prediction on a crowd is
    not false, and any number may be on one. The IoU is that of the masks, or of the boxes without
    masks.
    """
    found = np.full(len(prediction.scores), -1)
    if not len(truth.boxes):
        return found
    ious = _ious(truth, prediction)  # [n, objects]
    ious = np.where(prediction.labels[:, None] == truth.labels[None], ious, 0)
    for i in np.argsort(-prediction.scores, kind="stable").tolist():
        objects = np.where(truth.iscrowd, 0, ious[i])
        crowds = np.where(truth.iscrowd, ious[i], 0)
        best = objects if objects.max() >= MIN_IOU else crowds
        if best.max() >= MIN_IOU:
            found[i] = np.argmax(best)
            ious[:, found[i]] *= truth.iscrowd[found[i]]
    return found


def _ious(truth: data.Example, prediction: evaluation.Prediction) -> np.ndarray:
    """Return the IoUs `[n, objects]`; with a crowd, the part of the prediction inside it."""
    if not len(prediction.scores):
        return np.zeros((0, len(truth.boxes)))
    found: Any = prediction.rles
    objects: Any = list(truth.rles)
    if found is None:
        found, objects = _xywh(prediction.boxes), _xywh(truth.boxes)
    return np.asarray(mask_api.iou(found, objects, truth.iscrowd.astype(np.uint8).tolist()))


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)


def draw_comparison(
    source: data.Source,
    prediction: evaluation.Prediction,
    names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Return a picture (uint8 RGB) of an image's ground truth beside its prediction.

    An object and the prediction that finds it have one colour. Missed objects and false predictions
    are red and marked, crowds grey. Predictions below the score `threshold` are left out.

    Raises ValueError if the source has no image of the prediction's id.
    """
    truth = source[list(source.image_ids).index(prediction.image_id)]
    shown = select_certain(prediction, threshold)
    found = match_instances(truth, shown)
    missed = ~np.isin(np.arange(len(truth.boxes)), found) & ~truth.iscrowd
    colors = _truth_colors(truth, missed)
    false = found < 0
    left = draw_instances(
        truth.image,
        truth.boxes,
        truth.labels,
        names,
        truth.rles,
        colors=colors,
        marks=_marks(missed, truth.iscrowd),
    )
    right = draw_instances(
        truth.image,
        shown.boxes,
        shown.labels,
        names,
        shown.rles,
        shown.scores,
        colors=[RED if i < 0 else colors[i] for i in found.tolist()],
        marks=["false" if is_false else "" for is_false in false.tolist()],
    )
    objects = int((~truth.iscrowd).sum())
    titles = (
        f"ground truth: {objects}, missed: {int(missed.sum())}",
        f"prediction: {len(found)}, false: {int(false.sum())}",
    )
    return side_by_side(left, right, titles)


def _truth_colors(
    truth: data.Example, missed: Bool[np.ndarray, " n"]
) -> list[tuple[int, int, int]]:
    colors = [instance_color(i) for i in range(len(missed))]
    for i in np.flatnonzero(missed).tolist():
        colors[i] = RED
    for i in np.flatnonzero(truth.iscrowd).tolist():
        colors[i] = GREY
    return colors


def _marks(missed: Bool[np.ndarray, " n"], iscrowd: Bool[np.ndarray, " n"]) -> list[str]:
    marks = np.where(iscrowd, "crowd", np.where(missed, "missed", ""))
    return marks.tolist()
