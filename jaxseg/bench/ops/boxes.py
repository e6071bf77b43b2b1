"""NMS, and the matching of anchors with objects."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from jaxseg.bench import inputs
from jaxseg.bench.context import Context
from jaxseg.bench.ops.sides import add_peer, device_case, different_fraction
from jaxseg.bench.results import Comparison, Prepared

LEVELS = 5
NMS_THRESHOLD = 0.7
MATCHING: dict[str, Any] = {"high": 0.7, "low": 0.3, "min_pos_iou": 0.0}


def nms(context: Context) -> Prepared:
    settings, rng = context.settings, np.random.default_rng(0)
    shape = (settings.batch, LEVELS, settings.candidates)
    boxes = inputs.crowded_boxes(rng, shape, settings.size, objects=50)
    scores = rng.random(shape).astype(np.float32)

    def function(boxes: jax.Array, scores: jax.Array) -> jax.Array:
        return jax.vmap(jax.vmap(lambda b, s: ops.nms(b, s, NMS_THRESHOLD)))(boxes, scores)

    prepared, result = device_case(context, function, boxes, scores)
    calls = add_peer(context, prepared, lambda peer: peer.nms(boxes, scores, NMS_THRESHOLD))

    def compare() -> Iterable[Comparison]:
        for call in calls:
            kept = np.zeros((settings.batch, boxes[0, ..., 0].size), bool)
            for flags, index in zip(kept, call(), strict=True):
                flags[index.cpu().numpy()] = True
            yield different_fraction("kept boxes", result().reshape(kept.shape), kept)

    prepared.compare = compare
    return prepared


def matching(context: Context) -> Prepared:
    settings, rng = context.settings, np.random.default_rng(0)
    anchors = inputs.all_anchors(settings.size)
    boxes = inputs.random_boxes(rng, (settings.batch, settings.slots), settings.size)

    def function(anchors: jax.Array, boxes: jax.Array) -> Any:
        valid = jnp.ones(boxes.shape[1], bool)
        matched = jax.vmap(lambda b: ops.match(ops.box_iou(anchors, b), valid, **MATCHING))(boxes)
        return matched.gt_index, matched.positive, matched.negative

    prepared, result = device_case(context, function, anchors, boxes)
    calls = add_peer(context, prepared, lambda peer: peer.match(anchors, boxes))

    def compare() -> Iterable[Comparison]:
        for call in calls:
            index, positive, negative = result()
            ours = np.where(positive, index, np.where(negative, -1, -2))
            theirs = np.stack([x.cpu().numpy() for x in call()])
            yield different_fraction("matches", ours, theirs)

    prepared.compare = compare
    return prepared
