"""Mask R-CNN with FPN (He et al. 2017, arXiv 1703.06870; Lin et al. 2017, arXiv 1612.03144).

images -> backbone -> FPN -> RPN -> proposals -> RoIAlign -> box head -> boxes, classes
                                              -> RoIAlign -> mask head -> a mask each
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxseg.heads import rcnn
from jaxseg.heads.box_head import BoxHead
from jaxseg.heads.mask_head import (
    MaskHead,
    MaskHeadConfig,
    detection_masks,
    mask_loss,
    mask_samples,
)
from jaxseg.heads.roi_pooler import pool_rois
from jaxseg.heads.roi_sampling import RoIs
from jaxseg.model import Model
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import round_up_size
from jaxseg.types import Average, Batch, Detections, LossTerm, MaskFrame, TargetSpec


@dataclasses.dataclass(frozen=True)
class MaskRCNNConfig(rcnn.TwoStageConfig):
    """Settings of a Mask R-CNN; the defaults are R50-FPN on COCO."""

    mask: MaskHeadConfig = MaskHeadConfig()
    predict_background: bool = False
    """Add an unused box and mask for the background to the heads, as torchvision does; without them
    its checkpoints do not fit."""

    def build(self) -> Model:
        """Return the model.

        Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
        32 and of `size_divisibility`. `loss` returns the terms `rpn_class`, `rpn_box`, `box_class`,
        `box` and `mask`.

        >>> model = MaskRCNNConfig(num_classes=3).build()
        >>> model.targets.masks
        BoxCrops(size=112)
        """
        return build_model(
            MaskRCNN(self),
            self.backbone,
            TargetSpec(masks=self.mask.gt_masks),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class MaskRCNN(rcnn.Trunk):
    """The layers of Mask R-CNN; `_loss` and `_predict` combine them."""

    config: MaskRCNNConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        outputs = config.num_classes + config.predict_background
        box_outputs = 1 if config.box.cls_agnostic_bbox_reg else outputs
        mask_outputs = 1 if config.mask.cls_agnostic_mask else outputs
        self.box_head = BoxHead(config.box, config.num_classes, box_outputs, config.head_norm)
        self.mask_head = MaskHead(config.mask, mask_outputs, config.head_norm)

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call the box and the mask head."""
        channels = self.config.fpn_channels
        box, mask = self.config.box.pooler_resolution, self.config.mask.pooler_resolution
        self.box_head(jnp.zeros((1, box, box, channels)), jnp.ones((1,), bool), train=False)
        one_label = jnp.zeros((1,), jnp.int32)
        pooled = jnp.zeros((1, mask, mask, channels))
        self.mask_head(pooled, jnp.ones((1,), bool), one_label, train=False)


def _loss(
    net: MaskRCNN, batch: Batch, key: jax.Array
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    padded_size = round_up_size(batch.image_size, net.config.size_divisibility)
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    return instance_losses(net, pyramid, batch, key), {}


def instance_losses(
    net: MaskRCNN, pyramid: Pyramid, batch: Batch, key: jax.Array
) -> dict[str, LossTerm]:
    """Compute the losses of the RPN and of both heads."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    rpn_keys, roi_keys = rcnn.image_keys(key, batch, 2)
    proposals, terms = rcnn.proposals_and_losses(
        config.rpn, net.rpn_head, pyramid, batch, padded_size, rpn_keys
    )
    rois, _ = rcnn.sample_rois(config.box, proposals, batch, roi_keys)
    return terms | roi_losses(net, pyramid, rois, batch)


def roi_losses(net: MaskRCNN, pyramid: Pyramid, rois: RoIs, batch: Batch) -> dict[str, LossTerm]:
    """Compute the losses of both heads on sampled RoIs, the mask head's on positive ones alone."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    terms = rcnn.box_stage_losses(
        config.box, config.roi_align, net.box_head, pyramid, rois, batch, padded_size
    )
    positives = rcnn.positive_slots(config.box, rois)
    pooled = pool_rois(
        config.roi_align, pyramid, positives.boxes, padded_size, config.mask.pooler_resolution
    )
    samples = mask_samples(config.mask, positives, batch)
    return terms | {"mask": mask_loss(net.mask_head, pooled, samples)}


def _predict(net: MaskRCNN, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    padded_size = round_up_size(image_size, net.config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    return detect_instances(net, pyramid, image_size)


def detect_instances(net: MaskRCNN, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> Detections:
    """Find the instances, each with its mask."""
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    proposals = rcnn.propose(config.rpn, net.rpn_head, pyramid, image_size, padded_size)
    found = rcnn.detect_boxes(
        config.box, config.roi_align, net.box_head, pyramid, proposals, image_size, padded_size
    )
    pooled = pool_rois(
        config.roi_align, pyramid, found.boxes, padded_size, config.mask.pooler_resolution
    )
    valid, labels = found.valid.reshape(-1), found.labels.reshape(-1)
    masks = detection_masks(net.mask_head(pooled, valid, labels, train=False), found.valid)
    return Detections(*found, masks=masks, mask_frame=MaskFrame(config.mask.paste))
