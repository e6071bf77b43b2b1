"""Cascade R-CNN and Cascade Mask R-CNN (Cai & Vasconcelos 2019, arXiv 1906.09756).

images -> backbone -> FPN -> RPN -> proposals -> three box heads in turn (`heads.cascade`)
                                              -> RoIAlign -> a mask head for each of them
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg.heads import cascade, rcnn
from jaxseg.heads.box_head import BoxHead, BoxHeadConfig, box_losses
from jaxseg.heads.cascade import CascadeConfig
from jaxseg.heads.mask_head import (
    MaskHead,
    MaskHeadConfig,
    detection_masks,
    mask_loss,
    mask_samples,
)
from jaxseg.heads.roi_pooler import pool_rois
from jaxseg.heads.roi_sampling import Proposals, RoIs
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import Model
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import round_up_size
from jaxseg.types import Average, Batch, Detections, LossTerm, MaskFrame, TargetSpec


@dataclasses.dataclass(frozen=True)
class CascadeRCNNConfig(rcnn.TwoStageConfig):
    """Settings of a Cascade R-CNN; the defaults are R50-FPN on COCO."""

    rpn: RPNConfig = RPNConfig(post_nms_topk_train=2000)
    box: BoxHeadConfig = BoxHeadConfig(cls_agnostic_bbox_reg=True)
    """Every stage's box head, with the stage's own `positive_iou` and `bbox_reg_weights`."""
    cascade: CascadeConfig = CascadeConfig()
    mask: MaskHeadConfig | None = MaskHeadConfig()
    """None detects boxes alone."""
    variant: Literal["mmdet", "detectron2"] = "mmdet"
    """The codebase whose choices are made, where the paper leaves them open.

    `mmdet`: each stage has a mask head; a detection's mask is the mean of theirs, its score the
    softmax of the mean logits. Each stage's RoIs are sampled anew among the refined boxes and the
    ground-truth boxes.

    `detectron2`: one mask head learns from the RoIs of the first stage. Scores are the mean of the
    stages' softmax. The RoIs of the first stage, refined, are those of the others. The gradient
    from a box head to the pyramid is divided by the number of stages; their `loss_weights` are 1.
    """

    def build(self) -> Model:
        """Return the model.

        Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
        32 and of `size_divisibility`. `loss` returns the terms `rpn_class`, `rpn_box` and, for each
        stage, `stage1_box_class`, `stage1_box` and `stage1_mask`.

        >>> model = CascadeRCNNConfig(num_classes=3, mask=None).build()
        >>> model.targets.masks is None
        True
        """
        cascade.stage_configs(self.box, self.cascade)  # raises ValueError for what cannot be built
        return build_model(
            CascadeRCNN(self),
            self.backbone,
            TargetSpec(masks=None if self.mask is None else self.mask.gt_masks),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class CascadeRCNN(rcnn.Trunk):
    """The layers of Cascade R-CNN; `_loss` and `_predict` combine them."""

    config: CascadeRCNNConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        self.stages = cascade.stage_configs(config.box, config.cascade)
        self.box_heads = [
            BoxHead(stage, config.num_classes, 1, config.head_norm) for stage in self.stages
        ]
        self.mask_heads: list[MaskHead] = []
        if config.mask is not None:
            outputs = 1 if config.mask.cls_agnostic_mask else config.num_classes
            self.mask_heads = [
                MaskHead(config.mask, outputs, config.head_norm)
                for _ in (self.stages if config.variant == "mmdet" else self.stages[:1])
            ]

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call every stage's heads."""
        one, channels = jnp.ones((1,), bool), self.config.fpn_channels
        for box_head in self.box_heads:
            side = box_head.config.pooler_resolution
            box_head(jnp.zeros((1, side, side, channels)), one, train=False)
        for mask_head in self.mask_heads:
            side = mask_head.config.pooler_resolution
            pooled, label = jnp.zeros((1, side, side, channels)), jnp.zeros((1,), jnp.int32)
            mask_head(pooled, one, label, train=False)


def _loss(
    net: CascadeRCNN, batch: Batch, key: jax.Array
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    rpn_keys, *roi_keys = rcnn.image_keys(key, batch, 1 + len(net.stages))
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    proposals, terms = rcnn.proposals_and_losses(
        config.rpn, net.rpn_head, pyramid, batch, padded_size, rpn_keys
    )
    return terms | roi_losses(net, pyramid, proposals, batch, roi_keys), {}


def roi_losses(
    net: CascadeRCNN,
    pyramid: Pyramid,
    proposals: Proposals,
    batch: Batch,
    keys: list[Key[Array, " B"]],
) -> dict[str, LossTerm]:
    """Compute the losses of all stages, from the RPN's proposals on; `keys` are one for each."""
    config = net.config
    terms: dict[str, LossTerm] = {}
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    pool = functools.partial(_pool_for_boxes, config, pyramid, padded_size)
    weights = config.cascade.loss_weights
    for number, (box, weight) in enumerate(zip(net.stages, weights, strict=True), start=1):
        rois, is_gt = _stage_rois(config, number, box, proposals, batch, keys[number - 1])
        pooled = pool(rois.boxes)
        logits, deltas = net.box_heads[number - 1](pooled, rois.valid.reshape(-1), train=True)
        losses = box_losses(box, logits, deltas, rois, batch)
        if number <= len(net.mask_heads):
            losses["mask"] = _mask_loss(net, net.mask_heads[number - 1], pyramid, rois, batch)
        terms |= cascade.stage_terms(losses, number, weight)
        proposals = cascade.next_proposals(box, deltas, rois, is_gt, batch.image_size)
    return terms


def _stage_rois(
    config: CascadeRCNNConfig,
    number: int,
    box: BoxHeadConfig,
    proposals: Proposals,
    batch: Batch,
    keys: Key[Array, " B"],
) -> tuple[RoIs, Bool[Array, "B R"]]:
    """Return the RoIs that a stage learns from, and which of them the next stage does not get."""
    if config.variant == "detectron2" and number > 1:
        rois = cascade.match_all(proposals, batch, box.positive_iou)
        return rois, jnp.zeros_like(rois.valid)
    rois, is_gt = rcnn.sample_rois(box, proposals, batch, keys)
    return rois, is_gt if config.variant == "mmdet" else jnp.zeros_like(is_gt)


def _pool_for_boxes(
    config: CascadeRCNNConfig,
    pyramid: Pyramid,
    padded_size: Int[Array, "B 2"],
    boxes: Float[Array, "B R 4"],
) -> Float[Array, "BR p p C"]:
    pooled = pool_rois(config.roi_align, pyramid, boxes, padded_size, config.box.pooler_resolution)
    if config.variant == "mmdet":
        return pooled
    share = 1 / len(config.cascade.positive_ious)
    # The value is that of `pooled`, the gradient is multiplied by the share.
    return pooled - (1 - share) * (pooled - jax.lax.stop_gradient(pooled))


def _mask_loss(
    net: CascadeRCNN, head: MaskHead, pyramid: Pyramid, rois: RoIs, batch: Batch
) -> LossTerm:
    """Compute a mask head's loss on the positive RoIs, which are the first."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    positives = rcnn.positive_slots(config.box, rois)
    pooled = pool_rois(
        config.roi_align, pyramid, positives.boxes, padded_size, head.config.pooler_resolution
    )
    if config.variant == "mmdet":
        # Its masks of the whole image are padded with zeros, as the image is, and not cut off.
        batch = batch._replace(image_size=padded_size)
    return mask_loss(head, pooled, mask_samples(head.config, positives, batch))


def _predict(net: CascadeRCNN, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    proposals = rcnn.propose(config.rpn, net.rpn_head, pyramid, image_size, padded_size)
    pool = functools.partial(_pool_for_boxes, config, pyramid, padded_size)
    found = cascade.detect_boxes(
        net.stages,
        net.box_heads,
        pool,
        proposals,
        image_size,
        average="logits" if config.variant == "mmdet" else "probabilities",
    )
    if config.mask is None:
        return Detections(*found)
    pooled = pool_rois(
        config.roi_align, pyramid, found.boxes, padded_size, config.mask.pooler_resolution
    )
    valid, labels = found.valid.reshape(-1), found.labels.reshape(-1)
    masks = [
        detection_masks(head(pooled, valid, labels, train=False), found.valid)
        for head in net.mask_heads
    ]
    mean = sum(masks[1:], masks[0]) / len(masks)
    return Detections(*found, masks=mean, mask_frame=MaskFrame(config.mask.paste))
