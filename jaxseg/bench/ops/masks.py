"""The targets of the mask head, and predicted masks in the image and as run lengths."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxseg import ops
from jaxseg.bench import inputs
from jaxseg.bench.context import Context
from jaxseg.bench.ops.sides import add_peer, device_case, different_fraction, largest_difference
from jaxseg.bench.results import OURS, Comparison, Prepared
from jaxseg.bench.timing import Side

TARGET = inputs.MASK_SIDE
POSITIVES = 128
"""RoIs of an image whose masks are learned."""
CROP = 112


def _rois_on_objects(context: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return objects `[B, N, 4]`, RoIs `[B, R, 4]` near them, and each RoI's object `[B, R]`."""
    settings, rng = context.settings, np.random.default_rng(0)
    boxes = inputs.random_boxes(rng, (settings.batch, settings.slots), settings.size)
    index = rng.integers(0, settings.slots, (settings.batch, POSITIVES)).astype(np.int32)
    rois = np.take_along_axis(boxes, index[..., None], 1)
    sides = np.tile(rois[..., 2:] - rois[..., :2], 2)
    rois = (rois + rng.uniform(-0.1, 0.1, rois.shape) * sides).astype(np.float32)
    return boxes, rois, index


def crop_targets(context: Context) -> Prepared:
    boxes, rois, index = _rois_on_objects(context)
    whole = np.broadcast_to(np.asarray([0, 0, CROP, CROP], np.float32), boxes.shape)
    masks = inputs.disc_masks(whole, (CROP, CROP))
    function = jax.vmap(functools.partial(ops.mask_targets, size=TARGET))
    return device_case(context, function, masks, boxes, rois, index)[0]


def bitmap_targets(context: Context) -> Prepared:
    boxes, rois, index = _rois_on_objects(context)
    size = context.settings.size
    masks = inputs.disc_masks(boxes, size)
    targets = functools.partial(ops.bitmap_targets, image_size=size, size=TARGET, aligned=False)
    prepared, result = device_case(context, jax.vmap(targets), masks, rois, index)
    calls = add_peer(context, prepared, lambda peer: peer.mask_targets(masks, rois, index, TARGET))

    def compare() -> Iterable[Comparison]:
        for call in calls:
            theirs = np.stack([context.peer.array(x) for x in call()])  # type: ignore[union-attr]
            yield largest_difference(context, "targets", result(), theirs)

    prepared.compare = compare
    return prepared


def _predicted_masks(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities `[B, D, 28, 28]` of smooth shapes, and their boxes `[B, D, 4]`."""
    settings, rng = context.settings, np.random.default_rng(0)
    boxes = inputs.random_boxes(rng, (settings.batch, settings.slots), settings.size)
    side = inputs.MASK_SIDE
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    radius = rng.uniform(0.4, 1.0, (*boxes.shape[:2], 1, 1))
    masks = 1 / (1 + np.exp((np.hypot(y, x) - radius) * 8))
    return masks.astype(np.float32), boxes


def paste(context: Context) -> Prepared:
    masks, boxes = _predicted_masks(context)
    size = context.settings.size
    function = jax.vmap(lambda m, b: ops.paste_masks(m, b, size, paste="integer"))
    prepared, result = device_case(context, function, masks, boxes)
    calls = add_peer(context, prepared, lambda peer: peer.paste(masks, boxes, size))

    def compare() -> Iterable[Comparison]:
        for call in calls:
            theirs = np.stack([context.peer.array(x[:, 0]) for x in call()])  # type: ignore[union-attr]
            yield largest_difference(context, "pixels", result(), theirs)

    prepared.compare = compare
    return prepared


def rle(context: Context) -> Prepared:
    from jaxseg.evaluation.mask_rles import box_mask_rles

    masks, boxes = _predicted_masks(context)
    size = context.settings.size

    def call() -> list[Any]:
        return [
            box_mask_rles(m, b, size, paste="integer") for m, b in zip(masks, boxes, strict=True)
        ]

    prepared = Prepared({OURS: Side(call, lambda result: result)})
    calls = add_peer(context, prepared, lambda peer: peer.rle(masks, boxes, size))

    def compare() -> Iterable[Comparison]:
        for other in calls:
            ours, theirs = (
                np.asarray([r["counts"] for rles in f() for r in rles]) for f in (call, other)
            )
            yield different_fraction("run lengths", ours, theirs)

    prepared.compare = compare
    return prepared
