"""A cascade of box heads (Cai & Vasconcelos 2019, arXiv 1906.09756): each refines the boxes of the
one before it, and its positive RoIs need a higher IoU.

    proposals -> match, sample -> RoIs -> head 1 -> boxes -> match, sample -> RoIs -> head 2 -> ...
    proposals -> head 1 -> boxes -> head 2 -> boxes -> head 3 -> boxes, mean of the scores

Terms:
    stage     a box head with its IoU, its scale of deltas and its weight in the loss
    R         RoI or proposal slots of an image, padded
    pool      from boxes to the pooled features of all images on one axis
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg import ops
from jaxseg.heads.box_head import BoxHead, BoxHeadConfig, class_scores, refine_boxes
from jaxseg.heads.rcnn import BoxDetections, select_boxes
from jaxseg.heads.roi_sampling import Proposals, RoIs, match_proposals
from jaxseg.types import Batch, LossTerm

Weights = tuple[float, float, float, float]
Pool = Callable[[Float[Array, "B R 4"]], Float[Array, "BR p p C"]]


@dataclasses.dataclass(frozen=True)
class CascadeConfig:
    """Settings of the stages, one value for each; the defaults are the paper's three."""

    positive_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    """Least IoU of a positive RoI."""
    bbox_reg_weights: tuple[Weights, ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)


def stage_configs(box: BoxHeadConfig, cascade: CascadeConfig) -> list[BoxHeadConfig]:
    """Return each stage's box head: `box` with the IoU and the weights of the deltas of its stage.

    Raises ValueError if the stages differ in number, or if boxes are not class-agnostic: there
    would be a box for each class to refine.
    """
    counts = {len(getattr(cascade, field.name)) for field in dataclasses.fields(cascade)}
    if len(counts) > 1:
        raise ValueError(f"each field of the cascade must have one value for each stage: {cascade}")
    if not box.cls_agnostic_bbox_reg:
        raise ValueError("a cascade refines one box for all classes: set cls_agnostic_bbox_reg")
    return [
        dataclasses.replace(box, positive_iou=iou, bbox_reg_weights=weights)
        for iou, weights in zip(cascade.positive_ious, cascade.bbox_reg_weights, strict=True)
    ]


def stage_terms(terms: dict[str, LossTerm], stage: int, weight: float) -> dict[str, LossTerm]:
    """Return a stage's terms, named by its number (from 1) and multiplied by its weight."""
    return {
        f"stage{stage}_{name}": term._replace(weight=weight * term.weight)
        for name, term in terms.items()
    }


def refine(
    config: BoxHeadConfig,
    deltas: Float[Array, "BR 1 4"],
    boxes: Float[Array, "B R 4"],
    image_size: Int[Array, "B 2"],
) -> Float[Array, "B R 4"]:
    """Return the boxes that a stage's deltas lead to; no gradient flows through them."""
    batch, slots, _ = boxes.shape
    any_label = jnp.zeros((batch, slots), jnp.int32)
    refined = jax.vmap(lambda *image: refine_boxes(config, *image))(
        deltas.reshape(batch, slots, 1, 4), any_label, boxes, image_size
    )
    return jax.lax.stop_gradient(refined)


def next_proposals(
    config: BoxHeadConfig,
    deltas: Float[Array, "BR 1 4"],
    rois: RoIs,
    is_gt: Bool[Array, "B R"],
    image_size: Int[Array, "B 2"],
) -> Proposals:
    """Return a stage's refined RoIs, without those that are ground-truth boxes, to sample anew."""
    valid = rois.valid & ~is_gt
    boxes = refine(config, deltas, rois.boxes, image_size)
    return Proposals(jnp.where(valid[..., None], boxes, 0), valid)


def match_all(proposals: Proposals, batch: Batch, positive_iou: float) -> RoIs:
    """Match all proposals instead of sampling; return them in their order as RoIs.

    Those without an area are not valid.
    """

    def one_image(proposals: Proposals, gt_boxes: Array, gt_valid: Array) -> RoIs:
        has_area = ops.min_size_mask(proposals.boxes, 0.0)
        proposals = proposals._replace(valid=proposals.valid & has_area)
        matches = match_proposals(
            proposals, gt_boxes, gt_valid, positive_iou=positive_iou, low_quality_overrides=False
        )
        return RoIs(proposals.boxes, proposals.valid, matches.positive, matches.gt_index)

    return jax.vmap(one_image)(proposals, batch.boxes, batch.valid)


def detect_boxes(
    stages: Sequence[BoxHeadConfig],
    heads: Sequence[BoxHead],
    pool: Pool,
    proposals: Proposals,
    image_size: Int[Array, "B 2"],
    average: Literal["logits", "probabilities"],
) -> BoxDetections:
    """Refine the proposals by each stage, and select each image's best detections.

    Their scores are the softmax of the stages' mean logits, or the mean of their softmax.
    """
    scores = []
    for number, (config, head) in enumerate(zip(stages, heads, strict=True), start=1):
        logits, deltas = head(pool(proposals.boxes), proposals.valid.reshape(-1), train=False)
        scores.append(logits if average == "logits" else class_scores(logits))
        if number < len(stages):
            boxes = refine(config, deltas, proposals.boxes, image_size)
            proposals = proposals._replace(boxes=boxes)
    mean = sum(scores[1:], scores[0]) / len(scores)
    mean = class_scores(mean) if average == "logits" else mean
    return select_boxes(stages[-1], mean, deltas, proposals, image_size)
