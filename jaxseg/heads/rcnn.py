"""The settings, layers and steps that two-stage models share.

    pyramid -> RPN -> proposals -> match, sample -> RoIs -> box head -> losses
    pyramid -> RPN -> proposals -> box head -> select -> detections

A model puts them together in its own file and can replace any of them; the parts are in `rpn`,
`roi_sampling`, `roi_pooler` and `box_head`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg.heads import roi_sampling, rpn
from jaxseg.heads.box_head import (
    BoxHead,
    BoxHeadConfig,
    box_losses,
    class_scores,
    select_detections,
)
from jaxseg.heads.roi_pooler import RoIAlignConfig, pool_rois
from jaxseg.heads.roi_sampling import Proposals, RoIs
from jaxseg.heads.rpn import RPNConfig, RPNHead
from jaxseg.nn.backbone import BackboneConfig
from jaxseg.nn.fpn import FPN, Pyramid
from jaxseg.nn.norm import NormKind
from jaxseg.nn.pixels import ComputeDtype, PixelConfig, normalize
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import Batch, LossTerm


@dataclasses.dataclass(frozen=True)
class TwoStageConfig:
    """Settings that all two-stage models have; the defaults are R50-FPN on COCO.

    `jaxseg.zoo` holds those of other codebases' published models.
    """

    num_classes: int = 80
    pixels: PixelConfig = PixelConfig()
    backbone: BackboneConfig = ResNetConfig()
    fpn_channels: int = 256
    head_norm: NormKind | None = None
    """Normalisation in FPN, box and mask heads; none in the papers, useful without pre-training."""
    rpn: RPNConfig = RPNConfig()
    roi_align: RoIAlignConfig = RoIAlignConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    size_divisibility: int | tuple[int, int] = 32
    """Each image's size is rounded up to a multiple of this, as other codebases pad it (torchvision
    `size_divisible`, MMDetection `pad_size_divisor`); see `jaxseg.nn.padding`."""
    compute_dtype: ComputeDtype = "float32"


def two_stage_settings(config: TwoStageConfig) -> dict[str, Any]:
    """Return the settings that all two-stage models have, to give another model the same."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(TwoStageConfig)}


class Trunk(nn.Module):
    """The layers that a two-stage model begins with; it adds its own in `setup`."""

    config: TwoStageConfig

    def setup(self) -> None:
        config = self.config
        self.backbone = config.backbone.build()
        self.fpn = FPN(config.fpn_channels, config.head_norm)
        self.rpn_head = RPNHead(len(config.rpn.aspect_ratios), config.rpn.num_convs)

    def features(
        self,
        images: Array,
        image_size: Int[Array, "B 2"],
        padded_size: Int[Array, "B 2"],
        train: bool,
    ) -> Pyramid:
        """Compute P2 to P6."""
        x = normalize(self.config.pixels, images, image_size, self.config.compute_dtype)
        return self.fpn(self.backbone(x, padded_size, train), padded_size, train)

    def init_layers(self, images: Array, image_size: Int[Array, "B 2"]) -> None:
        """Call every layer once, so that `init` makes all parameters."""
        pyramid = self.features(images, image_size, image_size, train=False)
        self.rpn_head(pyramid)
        self.init_heads(pyramid, image_size)

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call the layers that a model adds."""
        raise NotImplementedError


def image_keys(key: jax.Array, batch: Batch, num: int) -> list[Key[Array, " B"]]:
    """Return `num` independent random keys for each image, made of its index alone."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
    return list(jax.vmap(lambda k: jax.random.split(k, num), out_axes=1)(keys))


def proposals_and_losses(
    config: RPNConfig,
    head: RPNHead,
    pyramid: Pyramid,
    batch: Batch,
    padded_size: Int[Array, "B 2"],
    keys: Key[Array, " B"],
) -> tuple[Proposals, dict[str, LossTerm]]:
    """Run the RPN in training: the proposals, and the losses on sampled anchors."""
    output = head(pyramid)
    anchors = rpn.make_anchors(config, pyramid, padded_size)
    samples = rpn.sample_anchors(config, anchors, batch, keys)
    proposals = rpn.generate_proposals(config, output, anchors, batch.image_size, train=True)
    return proposals, rpn.rpn_losses(config, output, anchors, samples, batch)


def propose(
    config: RPNConfig,
    head: RPNHead,
    pyramid: Pyramid,
    image_size: Int[Array, "B 2"],
    padded_size: Int[Array, "B 2"],
) -> Proposals:
    """Run the RPN in prediction."""
    anchors = rpn.make_anchors(config, pyramid, padded_size)
    return rpn.generate_proposals(config, head(pyramid), anchors, image_size, train=False)


def sample_rois(
    config: BoxHeadConfig, proposals: Proposals, batch: Batch, keys: Key[Array, " B"]
) -> tuple[RoIs, Bool[Array, "B R"]]:
    """Sample the RoIs that the heads learn from; see `roi_sampling.sample_rois`."""
    return roi_sampling.sample_rois(
        proposals,
        batch,
        keys,
        batch_size_per_image=config.batch_size_per_image,
        positive_fraction=config.positive_fraction,
        positive_iou=config.positive_iou,
        low_quality_overrides=config.low_quality_overrides,
    )


def positive_slots(config: BoxHeadConfig, rois: RoIs) -> RoIs:
    """Return the slots of sampled RoIs that can be positive, which are the first."""
    count = int(config.batch_size_per_image * config.positive_fraction)
    return RoIs(*(x[:, :count] for x in rois))


def box_stage_losses(
    config: BoxHeadConfig,
    roi_align: RoIAlignConfig,
    head: BoxHead,
    pyramid: Pyramid,
    rois: RoIs,
    batch: Batch,
    padded_size: Int[Array, "B 2"],
) -> dict[str, LossTerm]:
    """Pool the sampled RoIs, run the box head and compute its losses."""
    pooled = pool_rois(roi_align, pyramid, rois.boxes, padded_size, config.pooler_resolution)
    logits, deltas = head(pooled, rois.valid.reshape(-1), train=True)
    return box_losses(config, logits, deltas, rois, batch)


class BoxDetections(NamedTuple):
    """Instances without masks, best first; unused slots hold zeros."""

    boxes: Float[Array, "B D 4"]
    scores: Float[Array, "B D"]
    labels: Int[Array, "B D"]
    valid: Bool[Array, "B D"]


def detect_boxes(
    config: BoxHeadConfig,
    roi_align: RoIAlignConfig,
    head: BoxHead,
    pyramid: Pyramid,
    proposals: Proposals,
    image_size: Int[Array, "B 2"],
    padded_size: Int[Array, "B 2"],
) -> BoxDetections:
    """Pool the proposals, run the box head and select each image's best detections."""
    pooled = pool_rois(roi_align, pyramid, proposals.boxes, padded_size, config.pooler_resolution)
    logits, deltas = head(pooled, proposals.valid.reshape(-1), train=False)
    return select_boxes(config, class_scores(logits), deltas, proposals, image_size)


def select_boxes(
    config: BoxHeadConfig,
    scores: Float[Array, "BP C"],
    deltas: Float[Array, "BP _outputs 4"],
    proposals: Proposals,
    image_size: Int[Array, "B 2"],
) -> BoxDetections:
    """Select each image's best detections; see `box_head.select_detections`."""
    batch, slots = proposals.valid.shape
    select = jax.vmap(lambda *image: select_detections(config, *image))
    found = select(
        scores.reshape(batch, slots, -1),
        deltas.reshape(batch, slots, *deltas.shape[1:]),
        proposals,
        image_size,
    )
    return BoxDetections(*found)
