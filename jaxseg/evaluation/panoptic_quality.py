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

from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import Category
from jaxseg.evaluation.coco import Metrics, unique_names

PQ_NAMES = ("PQ", "SQ", "RQ")
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
            counts += _count(truth, found, len(categories))
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
        for name in PQ_NAMES
    }
    for label, category in enumerate(categories):
        for name in PQ_NAMES:
            metrics[f"panoptic/{name}/{titles[category.id]}"] = _mean(by_class[name][[label]])
    return metrics


def _mean(values: Float[np.ndarray, " n"]) -> float | None:
    """Return the mean of the values that are not NaN; None without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


class SegmentMatches(NamedTuple):
    """The segments of a true and a predicted map by their ids, without those that do not count."""

    matched: dict[int, tuple[int, float]]
    """The true segment that each predicted one finds, and their IoU."""
    missed: list[int]
    """True segments that are not found."""
    false: list[int]
    """Predicted segments that find nothing."""


def match_segments(truth: PanopticMap, found: PanopticMap) -> SegmentMatches:
    """Match the segments of a true and a predicted map.

    Raises ValueError as `panoptic_quality` does.
    """
    if truth.ids.shape != found.ids.shape:
        raise ValueError(
            f"the truth has {list(truth.ids.shape)} pixels and the prediction "
            f"{list(found.ids.shape)}"
        )
    true, predicted = _segments(truth, "truth"), _segments(found, "prediction")
    shape = len(true.ids), len(predicted.ids)
    pairs = true.rows * shape[1] + predicted.rows
    overlaps = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    areas, found_areas = overlaps.sum(axis=1), overlaps.sum(axis=0)
    if not found_areas[1:].all():
        raise ValueError("a segment of the prediction has no pixels")

    void = overlaps[0]
    iou = overlaps / np.maximum(areas[:, None] + found_areas - overlaps - void, 1)
    # Segments of a map do not overlap, so above one half each has at most one match.
    matched = (iou > MIN_IOU) & (true.labels[:, None] == predicted.labels) & ~true.iscrowd[:, None]
    missed = ~matched.any(axis=1) & ~true.iscrowd

    ignored = void.copy()
    # Of several crowds of a class, panopticapi uses the last; COCO has at most one in an image.
    crowds = {segment.label: segment.id for segment in truth.segments if segment.iscrowd}
    for label, crowd_id in crowds.items():
        inside = overlaps[np.searchsorted(true.ids, crowd_id)]
        ignored += np.where(predicted.labels == label, inside, 0)
    false = ~matched.any(axis=0) & (ignored <= MIN_IOU * found_areas)

    true_rows, found_rows = np.nonzero(matched)
    return SegmentMatches(
        {
            int(predicted.ids[j]): (int(true.ids[i]), float(iou[i, j]))
            for i, j in zip(true_rows, found_rows, strict=True)
        },
        true.ids[1:][missed[1:]].tolist(),
        predicted.ids[1:][false[1:]].tolist(),
    )


class _Segments(NamedTuple):
    """Void and the segments of a map, by increasing id."""

    ids: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    iscrowd: Bool[np.ndarray, " n"]
    rows: Int[np.ndarray, "h w"]
    """The position of each pixel's segment in `ids`."""


def _segments(panoptic: PanopticMap, name: str) -> _Segments:
    """Return a map's segments; `name` is its role, for errors."""
    void = Segment(0, -1, iscrowd=True)
    segments = [void, *sorted(panoptic.segments, key=lambda segment: segment.id)]
    ids = np.asarray([segment.id for segment in segments])
    if (np.diff(ids) <= 0).any():
        raise ValueError(f"the ids of the {name}'s segments are not different and above 0")
    rows = np.minimum(np.searchsorted(ids, panoptic.ids), len(ids) - 1)
    unknown = ids[rows] != panoptic.ids
    if unknown.any():
        first = panoptic.ids[unknown][0]
        raise ValueError(f"the {name} has pixels of the id {first}, which no segment has")
    labels = np.asarray([segment.label for segment in segments])
    return _Segments(ids, labels, np.asarray([s.iscrowd for s in segments]), rows)


def _count(
    truth: PanopticMap, found: PanopticMap, num_classes: int
) -> Float[np.ndarray, "4 num_classes"]:
    """Return one image's sum of IoU, matches, false predictions and missed segments by class."""
    for name, panoptic in (("truth", truth), ("prediction", found)):
        for segment in panoptic.segments:
            if not 0 <= segment.label < num_classes:
                raise ValueError(
                    f"segment {segment.id} of the {name} has the label {segment.label}; there are "
                    f"{num_classes} classes"
                )
    matches = match_segments(truth, found)
    true_labels = {segment.id: segment.label for segment in truth.segments}
    found_labels = {segment.id: segment.label for segment in found.segments}
    counts = np.zeros((4, num_classes))
    for true_id, iou in matches.matched.values():
        counts[0, true_labels[true_id]] += iou
        counts[1, true_labels[true_id]] += 1
    for found_id in matches.false:
        counts[2, found_labels[found_id]] += 1
    for true_id in matches.missed:
        counts[3, true_labels[true_id]] += 1
    return counts
