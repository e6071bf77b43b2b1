"""Hybrid Task Cascade (Chen et al. 2019, arXiv 1901.07518): a cascade whose mask heads pass on
their features, with a semantic branch.

images -> backbone -> FPN -> semantic head -> classes of cells; features that RoIs are pooled from
                          -> RPN -> proposals -> box head 1 -> boxes -> box head 2 -> boxes -> ...
                                                               mask head 1 -> mask head 2 -> ...

In training, each mask head learns from RoIs that its stage's box head has refined.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg import losses
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
from jaxseg.heads.roi_sampling import Proposals
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import Model
from jaxseg.nn.activation import relu
from jaxseg.nn.build import build_model
from jaxseg.nn.conv import Conv
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.norm import NormKind
from jaxseg.nn.padding import extent_mask, level_extent, round_up_size
from jaxseg.nn.resize import resize
from jaxseg.nn.resnet import he_normal
from jaxseg.types import IGNORED, Average, Batch, Detections, LossTerm, MaskFrame, TargetSpec

SEMANTIC_STRIDE = 8
"""Stride of the semantic branch, that of P3 (section 3)."""


@dataclasses.dataclass(frozen=True)
class FusedSemanticHeadConfig:
    """Settings of the semantic branch (section 3)."""

    num_convs: int = 4
    loss_weight: float = 0.2


@dataclasses.dataclass(frozen=True)
class HTCConfig(rcnn.TwoStageConfig):
    """Settings of an HTC; the defaults are R50-FPN on COCO."""

    num_semantic_classes: int = 183
    """Classes of the semantic branch, things and stuff."""
    rpn: RPNConfig = RPNConfig(post_nms_topk_train=2000)
    box: BoxHeadConfig = BoxHeadConfig(
        cls_agnostic_bbox_reg=True, low_quality_overrides=True, score_threshold=0.001
    )
    """Every stage's box head, with the stage's own `positive_iou` and `bbox_reg_weights`."""
    cascade: CascadeConfig = CascadeConfig()
    mask: MaskHeadConfig = MaskHeadConfig()
    semantic: FusedSemanticHeadConfig | None = FusedSemanticHeadConfig()
    """None leaves the semantic branch out."""

    def build(self) -> Model:
        """Return the model.

        Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
        32 and of `size_divisibility`. `loss` returns the terms `rpn_class`, `rpn_box`, for each
        stage `stage1_box_class`, `stage1_box` and `stage1_mask`, and `semantic`.

        >>> model = HTCConfig(num_classes=3, num_semantic_classes=5).build()
        >>> model.targets.semantic_stride
        8
        """
        cascade.stage_configs(self.box, self.cascade)  # raises ValueError for what cannot be built
        if self.semantic is not None and self.mask.pooler_resolution % self.box.pooler_resolution:
            raise ValueError(
                "the mask head's pooler_resolution must be a multiple of the box head's, to which "
                f"the semantic feature is averaged: {self.mask.pooler_resolution} is not"
            )
        stride = None if self.semantic is None else SEMANTIC_STRIDE
        return build_model(
            HTC(self),
            self.backbone,
            TargetSpec(masks=self.mask.gt_masks, semantic_stride=stride),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class FusedSemanticHead(nn.Module):
    """P2 to P6 to class logits `[B, h, w, classes]` and features `[B, h, w, D]` at stride 8."""

    config: FusedSemanticHeadConfig
    num_classes: int

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> tuple[Float[Array, "B h w _classes"], Float[Array, "B h w D"]]:
        dtype = pyramid[SEMANTIC_STRIDE].dtype
        # As many channels as the pyramid, to whose pooled features the branch's are added.
        _, height, width, channels = pyramid[SEMANTIC_STRIDE].shape
        extent = level_extent(padded_size, SEMANTIC_STRIDE)
        inside = extent_mask(extent, height, width)

        def layer(x: Array, size: int, name: str) -> Array:
            conv = Conv(
                channels,
                (size, size),
                padding=size // 2,
                kernel_init=he_normal,
                dtype=dtype,
                name=name,
            )
            return relu(conv(x), inside)

        levels = []
        for stride, x in sorted(pyramid.items()):
            if stride != SEMANTIC_STRIDE:
                size = level_extent(padded_size, stride)
                x = resize(x, size, extent, (height, width), align_corners=True)
            levels.append(layer(x, 1, f"lateral{stride.bit_length() - 1}"))
        x = sum(levels[1:], levels[0])
        for number in range(1, self.config.num_convs + 1):
            x = layer(x, 3, f"conv{number}")
        logit = Conv(self.num_classes, (1, 1), kernel_init=he_normal, dtype=dtype, name="logit")
        return logit(x).astype(jnp.float32), layer(x, 1, "embedding")


class FlowMaskHead(MaskHead):
    """A mask head that adds the features of the stage before to its input."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "R p p D"],
        valid: Bool[Array, " R"],
        labels: Int[Array, " R"] | None,
        train: bool,
        previous: Float[Array, "R p p _"] | None = None,
    ) -> Array:
        """Return the mask logits of each RoI's class, or the features where `labels` is None."""
        if previous is not None:
            conv = Conv(
                x.shape[-1], (1, 1), kernel_init=he_normal, dtype=x.dtype, name="conv_previous"
            )
            x = x + relu(conv(previous))
        x = self.features(x, valid, train)
        return x if labels is None else self.upsampled_logits(x, labels)


class MaskFlow(nn.Module):
    """The mask heads of all stages, each on the features of the one before (section 3)."""

    config: MaskHeadConfig
    outputs: int
    norm: NormKind | None
    num_stages: int

    def setup(self) -> None:
        self.heads = [
            FlowMaskHead(self.config, self.outputs, self.norm) for _ in range(self.num_stages)
        ]

    def __call__(
        self,
        x: Float[Array, "R p p D"],
        valid: Bool[Array, " R"],
        labels: Int[Array, " R"],
        train: bool,
        stage: int,
    ) -> Float[Array, "R S S"]:
        """Return a stage's mask logits of each RoI's class; stages count from 1."""
        previous = None
        for head in self.heads[: stage - 1]:
            previous = head(x, valid, None, train, previous)
        return self.heads[stage - 1](x, valid, labels, train, previous)


class HTC(rcnn.Trunk):
    """The layers of HTC; `_loss` and `_predict` combine them."""

    config: HTCConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        self.stages = cascade.stage_configs(config.box, config.cascade)
        self.box_heads = [
            BoxHead(stage, config.num_classes, 1, config.head_norm) for stage in self.stages
        ]
        outputs = 1 if config.mask.cls_agnostic_mask else config.num_classes
        self.mask_flow = MaskFlow(config.mask, outputs, config.head_norm, len(self.stages))
        if config.semantic is not None:
            self.semantic_head = FusedSemanticHead(config.semantic, config.num_semantic_classes)

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call every stage's heads and the semantic head."""
        one, channels = jnp.ones((1,), bool), self.config.fpn_channels
        side = self.config.box.pooler_resolution
        for head in self.box_heads:
            head(jnp.zeros((1, side, side, channels)), one, train=False)
        side = self.config.mask.pooler_resolution
        pooled, label = jnp.zeros((1, side, side, channels)), jnp.zeros((1,), jnp.int32)
        for stage in range(1, len(self.stages) + 1):
            self.mask_flow(pooled, one, label, train=False, stage=stage)
        if self.config.semantic is not None:
            self.semantic_head(pyramid, image_size)


def _loss(net: HTC, batch: Batch, key: jax.Array) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    rpn_keys, *roi_keys = rcnn.image_keys(key, batch, 1 + 2 * len(net.stages))
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    proposals, terms = rcnn.proposals_and_losses(
        config.rpn, net.rpn_head, pyramid, batch, padded_size, rpn_keys
    )
    return terms | roi_losses(net, pyramid, proposals, batch, roi_keys), {}


def roi_losses(
    net: HTC, pyramid: Pyramid, proposals: Proposals, batch: Batch, keys: list[Key[Array, " B"]]
) -> dict[str, LossTerm]:
    """Compute the losses of all stages and of the semantic branch, from the RPN's proposals on.

    `keys` are two for each stage: its box and its mask head learn from different RoIs.
    """
    config = net.config
    terms: dict[str, LossTerm] = {}
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    semantic = None
    if config.semantic is not None:
        logits, semantic = net.semantic_head(pyramid, padded_size)
        terms["semantic"] = _semantic_loss(config.semantic, logits, batch, padded_size)
    pool = functools.partial(_pool, config, pyramid, semantic, padded_size)
    # MMDetection's masks of the whole image are padded with zeros, as the image is.
    padded = batch._replace(image_size=padded_size)
    weights = config.cascade.loss_weights
    for number, (box, weight) in enumerate(zip(net.stages, weights, strict=True), start=1):
        rois, is_gt = rcnn.sample_rois(box, proposals, batch, keys[2 * number - 2])
        pooled = pool(rois.boxes, config.box.pooler_resolution)
        logits, deltas = net.box_heads[number - 1](pooled, rois.valid.reshape(-1), train=True)
        stage_terms = box_losses(box, logits, deltas, rois, batch)
        proposals = cascade.next_proposals(box, deltas, rois, is_gt, batch.image_size)

        refined, _ = rcnn.sample_rois(box, proposals, batch, keys[2 * number - 1])
        positives = rcnn.positive_slots(box, refined)
        pooled = pool(positives.boxes, config.mask.pooler_resolution)
        samples = mask_samples(config.mask, positives, padded)
        stage_terms["mask"] = mask_loss(net.mask_flow, pooled, samples, stage=number)
        terms |= cascade.stage_terms(stage_terms, number, weight)
    return terms


def _pool(
    config: HTCConfig,
    pyramid: Pyramid,
    semantic: Float[Array, "B h w C"] | None,
    padded_size: Int[Array, "B 2"],
    boxes: Float[Array, "B R 4"],
    resolution: int,
) -> Float[Array, "BR p p C"]:
    """Pool boxes from the pyramid, and add the semantic feature, averaged to the resolution."""
    pooled = pool_rois(config.roi_align, pyramid, boxes, padded_size, resolution)
    if semantic is None:
        return pooled
    side, level = config.mask.pooler_resolution, {SEMANTIC_STRIDE: semantic}
    added = pool_rois(config.roi_align, level, boxes, padded_size, side)
    part = side // resolution
    added = added.reshape(len(added), resolution, part, resolution, part, -1).mean((2, 4))
    return pooled + added


def _semantic_loss(
    config: FusedSemanticHeadConfig,
    logits: Float[Array, "B h w C"],
    batch: Batch,
    padded_size: Int[Array, "B 2"],
) -> LossTerm:
    """Compute cross-entropy, over all cells of the padded images as in MMDetection."""
    if batch.semantic is None:
        raise ValueError("the semantic branch learns from a map: the batch must have `semantic`")
    extent = level_extent(padded_size, SEMANTIC_STRIDE)
    inside = extent_mask(extent, *logits.shape[1:3])[..., 0]
    learned = inside & (batch.semantic != IGNORED)
    labels = jnp.where(learned, batch.semantic, 0).astype(jnp.int32)
    loss = jnp.where(learned, losses.softmax_cross_entropy(logits, labels), 0)
    return LossTerm(loss.sum(), inside.sum().astype(loss.dtype), config.loss_weight)


def _predict(net: HTC, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    semantic = None
    if config.semantic is not None:
        _, semantic = net.semantic_head(pyramid, padded_size)
    pool = functools.partial(_pool, config, pyramid, semantic, padded_size)
    proposals = rcnn.propose(config.rpn, net.rpn_head, pyramid, image_size, padded_size)
    found = cascade.detect_boxes(
        net.stages,
        net.box_heads,
        functools.partial(pool, resolution=config.box.pooler_resolution),
        proposals,
        image_size,
        "logits",
    )
    pooled = pool(found.boxes, config.mask.pooler_resolution)
    valid, labels = found.valid.reshape(-1), found.labels.reshape(-1)
    logits = net.mask_flow(pooled, valid, labels, train=False, stage=len(net.stages))
    masks = detection_masks(logits, found.valid)
    return Detections(*found, masks=masks, mask_frame=MaskFrame(config.mask.paste))
