"""Propose settings for a dataset: classes, buckets, anchors, and the objects of an image."""

import math
from typing import NamedTuple

import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.data.panoptic import thing_categories
from jaxseg.data.source import Source, SourceConfig

_MAX_IMAGES = 200
"""Images of which the objects are read, spread evenly over the split."""
_LARGEST_UNSCALED, _LARGEST_SCALED = 640, 1024
_SMALLEST_OBJECT = 12.0
"""Length of an object's side, in pixels of the resized image, that a detector can still find."""
_MULTIPLE = 32  # the coarsest stride of a pyramid


class Proposal(NamedTuple):
    """Settings that fit a dataset."""

    num_classes: int
    min_size: int | None
    max_size: int | None
    buckets: tuple[tuple[int, int], ...]
    anchor_sizes: tuple[float, ...]
    """Side of the anchors of each of five pyramid levels."""
    max_objects: int


def propose(source: Source) -> Proposal:
    """Return settings that fit a split of a dataset, a pure function of it.

    Images of up to 640 pixels keep their size. Larger ones are resized to 640 pixels on the longer
    side or, if a tenth of the objects would then be smaller than 12 pixels, to 1024. Anchors begin
    at the size of the smallest twentieth of the objects, as a power of two.
    """
    sides, counts = _objects(source)
    sizes = np.asarray(source.image_sizes, np.float64)  # [n, 2], height and width
    longest = float(np.quantile(sizes.max(1), 0.9))
    min_size = max_size = None
    scale = 1.0
    if longest > _LARGEST_UNSCALED:
        smallest = float(np.quantile(sides, 0.1)) if len(sides) else math.inf
        fine = smallest * _LARGEST_UNSCALED / longest < _SMALLEST_OBJECT
        max_size = _LARGEST_SCALED if fine else _LARGEST_UNSCALED
        ratio = float(np.median(sizes.min(1) / sizes.max(1)))
        min_size = _round_up(max_size * ratio)
        scale = max_size / longest
    first = float(np.quantile(sides, 0.05)) * scale if len(sides) else 32.0
    first = min(max(2.0 ** round(math.log2(max(first, 1.0))), 8.0), 32.0)
    return Proposal(
        num_classes=len(thing_categories(source)),
        min_size=min_size,
        max_size=max_size,
        buckets=_buckets(sizes, min_size, max_size),
        anchor_sizes=tuple(first * 2**level for level in range(5)),
        max_objects=_slots(counts),
    )


def data_config(source: SourceConfig, proposal: Proposal) -> DataConfig:
    """Return the data settings of a proposal."""
    return DataConfig(
        source=source,
        buckets=proposal.buckets,
        min_size=proposal.min_size,
        max_size=proposal.max_size,
        max_objects=proposal.max_objects,
    )


def _objects(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return the sides of objects (square roots of box areas, `[m]`), and each image's number."""
    chosen = np.unique(np.linspace(0, len(source) - 1, _MAX_IMAGES).round().astype(int))
    sides, counts = [np.zeros(0)], []
    for index in chosen.tolist():
        example = source[index]
        boxes = example.boxes[~example.iscrowd].reshape(-1, 2, 2)
        sides.append(np.sqrt((boxes[:, 1] - boxes[:, 0]).prod(1)))
        counts.append(len(boxes))
    known = source.object_counts
    return np.concatenate(sides), np.asarray(counts) if known is None else np.asarray(known)


def _buckets(
    sizes: np.ndarray, min_size: int | None, max_size: int | None
) -> tuple[tuple[int, int], ...]:
    """Return one bucket for images of one orientation or nearly square ones, else two."""
    if min_size is None or max_size is None:
        height, width = np.quantile(sizes, 0.9, axis=0).tolist()
        return ((_round_up(height), _round_up(width)),)
    short, long = _round_up(float(min_size)), _round_up(float(max_size))
    portrait = float((sizes[:, 0] > sizes[:, 1]).mean())
    landscape_bucket, portrait_bucket = (short, long), (long, short)
    if portrait < 0.05 or short == long:
        return (landscape_bucket,)
    return (portrait_bucket,) if portrait > 0.95 else (landscape_bucket, portrait_bucket)


def _slots(counts: np.ndarray) -> int:
    """Return the number of objects of nearly every image, a multiple of 8, at least 8."""
    most = float(np.quantile(counts, 0.99)) if len(counts) else 0.0
    return min(max(8 * math.ceil(most / 8), 8), 512)


def _round_up(side: float) -> int:
    return max(math.ceil(side / _MULTIPLE) * _MULTIPLE, 2 * _MULTIPLE)
