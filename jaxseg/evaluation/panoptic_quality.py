"""Compute panoptic quality (Kirillov et al. 2019, arXiv 1801.00868) as panopticapi does.

A predicted and a true segment of one class match if their IoU is above one half, where pixels that
are void in the truth do not count. Of each class

    PQ = sum of the matches' IoU / (matches + false predictions / 2 + missed segments / 2)
       = SQ (mean IoU of the matches) * RQ (F1 of the matches)

A crowd matches nothing and is not missed. An unmatched prediction is ignored if more than half of
it is void or a crowd of its class in the truth.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxseg.data.panoptic import PanopticMap
from jaxseg.data.source import Category
from jaxseg.evaluation.coco import Metrics, unique_names

NAMES = ("PQ", "SQ", "RQ")
MIN_IOU = 0.5
"""A match has a larger IoU."""


def panoptic_quality(
    pairs: Iterable[tuple[PanopticMap, PanopticMap]],
    categories: Sequence[Category],
    num_things: int,
) -> Metrics:
    """Return the panoptic quality of images, each given by its true and its predicted map.

    The keys are `panoptic/PQ`, `panoptic/PQ_things`, `panoptic/PQ_stuff` (means over classes) and
    `panoptic/PQ/<class>`; the same for SQ and RQ. As in panopticapi, a class without matches,
    missed segments and false predictions is in no mean; its own metrics, and those of a group of
    such classes, are None.

    Args:
        pairs: truth and prediction of each image.
        categories: the classes by label, things first.
        num_things: the number of things.

    Raises:
        ValueError: an image's maps have different sizes; a map has an id without a segment, a
            segment without a label of `categories`, or an id that several segments have; or a
            predicted segment has no pixels.
    """
    counts = np.zeros((4, len(categories)))
    for number, (truth, found) in enumerate(pairs):
        try:
            counts += _compare(truth, found, len(categories))
        except ValueError as error:
            raise ValueError(f"image number {number}: {error}") from error
    iou, matches, false, missed = counts
    relevant = matches + (false + missed) / 2  # [C]
    with np.errstate(invalid="ignore"):
        by_class = {
            "PQ": iou / relevant,
            "SQ": np.where(relevant > 0, iou / np.maximum(matches, 1), np.nan),
            "RQ": matches / relevant,
        }
    is_thing = np.arange(len(categories)) < num_things
    groups = {"": np.ones_like(is_thing), "_things": is_thing, "_stuff": ~is_thing}
    titles = unique_names([category._asdict() for category in categories])
    metrics: Metrics = {
        f"panoptic/{name}{suffix}": _mean(by_class[name][group])
        for suffix, group in groups.items()
        for name in NAMES
    }
    for label, category in enumerate(categories):
        for name in NAMES:
            metrics[f"panoptic/{name}/{titles[category.id]}"] = _mean(by_class[name][[label]])
    return metrics


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    """Return the mean of the values that are not NaN; None without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


class _Segments(NamedTuple):
    """The n segments of a map by increasing id, after void, which has the row 0."""

    ids: Int[np.ndarray, " n+1"]
    rows: Int[np.ndarray, "h w"]
    """The row of each pixel's segment."""
    labels: Int[np.ndarray, " n"]
    iscrowd: Bool[np.ndarray, " n"]


def _segments(panoptic: PanopticMap, num_classes: int, name: str) -> _Segments:
    """Return a map's segments; `name` is its role, for errors."""
    segments = sorted(panoptic.segments, key=lambda segment: segment.id)
    ids = np.asarray([0, *(segment.id for segment in segments)])
    if (np.diff(ids) <= 0).any():
        raise ValueError(f"the ids of the {name}'s segments are not different and above 0")
    for segment in segments:
        if not 0 <= segment.label < num_classes:
            raise ValueError(
                f"segment {segment.id} of the {name} has the label {segment.label}; there are "
                f"{num_classes} classes"
            )
    rows = np.minimum(np.searchsorted(ids, panoptic.ids), len(ids) - 1)
    unknown = ids[rows] != panoptic.ids
    if unknown.any():
        first = panoptic.ids[unknown][0]
        raise ValueError(f"the {name} has pixels of the id {first}, which no segment has")
    labels = np.asarray([segment.label for segment in segments], int)
    return _Segments(ids, rows, labels, np.asarray([s.iscrowd for s in segments], bool))


def _compare(
    truth: PanopticMap, found: PanopticMap, num_classes: int
) -> Float[np.ndarray, "4 num_classes"]:
    """Return one image's sum of IoU, matches, false predictions and missed segments by class."""
    if truth.ids.shape != found.ids.shape:
        raise ValueError(
            f"the truth has {list(truth.ids.shape)} pixels and the prediction "
            f"{list(found.ids.shape)}"
        )
    true = _segments(truth, num_classes, "truth")
    predicted = _segments(found, num_classes, "prediction")
    shape = len(true.ids), len(predicted.ids)
    pairs = true.rows * shape[1] + predicted.rows
    overlaps = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    areas, found_areas = overlaps[1:].sum(axis=1), overlaps[:, 1:].sum(axis=0)  # [n], [m]
    if not found_areas.all():
        raise ValueError("a segment of the prediction has no pixels")

    void, both = overlaps[0, 1:], overlaps[1:, 1:]  # [m], [n, m]
    unions = areas[:, None] + found_areas - both - void
    iou = both / np.maximum(unions, 1)
    # Segments of a map do not overlap, so above one half each has at most one match.
    matched = (iou > MIN_IOU) & (true.labels[:, None] == predicted.labels) & ~true.iscrowd[:, None]
    missed = ~matched.any(axis=1) & ~true.iscrowd

    ignored = void.copy()
    # Of several crowds of a class, panopticapi uses the last; COCO has at most one in an image.
    crowds = {segment.label: segment.id for segment in truth.segments if segment.iscrowd}
    for label, crowd_id in crowds.items():
        inside = overlaps[np.searchsorted(true.ids, crowd_id), 1:]
        ignored += np.where(predicted.labels == label, inside, 0)
    false = ~matched.any(axis=0) & (ignored / found_areas <= MIN_IOU)

    labels = true.labels[np.nonzero(matched)[0]]
    # Without matches, the sum of their IoU would be ints.
    return np.stack(
        [
            np.bincount(labels, iou[matched], num_classes).astype(float),
            np.bincount(labels, minlength=num_classes),
            np.bincount(predicted.labels[false], minlength=num_classes),
            np.bincount(true.labels[missed], minlength=num_classes),
        ]
    )
