"""Mask R-CNN with FPN (He et al. 2017, arXiv 1703.06870; Lin et al. 2017, arXiv 1612.03144).

    images -> ResNet -> FPN -> RPN -> proposals -> RoIAlign -> box head -> boxes, classes
                                                -> RoIAlign -> mask head -> a mask each

Each part has its own file: `nn.resnet`, `nn.fpn`, `rpn`, `roi_pool`, `box_head`,
`mask_head`. Here they are put together.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int

from jaxseg.heads import rpn
from jaxseg.heads.box_head import (
    BoxHead,
    BoxHeadConfig,
    RoIs,
    box_losses,
    sample_rois,
    select_detections,
)
from jaxseg.heads.mask_head import MaskHead, MaskHeadConfig, mask_loss, select_class_mask
from jaxseg.heads.roi_pooler import RoIAlignConfig, pool
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import Model
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import FPN, Pyramid
from jaxseg.nn.norm import NormKind
from jaxseg.nn.padding import round_up_size
from jaxseg.nn.pixels import ComputeDtype, PixelConfig, normalize
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.types import Batch, Detections, LossTerm, MaskFrame


@dataclasses.dataclass(frozen=True)
class MaskRCNNConfig:
    """A Mask R-CNN's choices; the defaults are R50-FPN on COCO.

    `jaxseg.zoo.published` holds those of other codebases' published models.
    """

    num_classes: int = 80
    pixels: PixelConfig = PixelConfig()
    backbone: ResNetConfig = ResNetConfig()
    fpn_channels: int = 256
    head_norm: NormKind | None = None
    """Normalisation in FPN and heads; none in the paper, useful without pre-training."""
    rpn: RPNConfig = RPNConfig()
    roi_align: RoIAlignConfig = RoIAlignConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    mask: MaskHeadConfig = MaskHeadConfig()
    predict_background: bool = False
    """The heads have a box and a mask for the background as well, never used: torchvision's
    do, and its checkpoints hold their weights."""
    size_divisibility: int = 32
    """The padding up to a multiple of this counts as image, as in the references."""
    compute_dtype: ComputeDtype = "float32"

    def build(self) -> Model:
        return mask_rcnn(self)


def mask_rcnn(config: MaskRCNNConfig) -> Model:
    """Mask R-CNN as a `jaxseg.model.Model`.

    Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
    32. `loss` returns the terms `rpn_class`, `rpn_box`, `box_class`, `box` and `mask`.
    """
    net = MaskRCNN(config)
    return build_model(
        net,
        config.backbone,
        config.mask.needs,
        config.size_divisibility,
        loss=_loss,
        predict=_predict,
    )


class MaskRCNN(nn.Module):
    """The layers; how they are used in training and prediction is in the functions below."""

    config: MaskRCNNConfig

    def setup(self) -> None:
        config = self.config
        norm = config.head_norm
        outputs = config.num_classes + config.predict_background
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(config.fpn_channels, norm)
        self.rpn_head = rpn.RPNHead(len(config.rpn.aspect_ratios), config.rpn.num_convs)
        self.box_head = BoxHead(
            config.box, config.num_classes, 1 if config.box.cls_agnostic_bbox_reg else outputs, norm
        )
        self.mask_head = MaskHead(
            config.mask, 1 if config.mask.cls_agnostic_mask else outputs, norm
        )

    def features(
        self,
        images: Array,
        image_size: Int[Array, "B 2"],
        padded_size: Int[Array, "B 2"],
        train: bool,
    ) -> Pyramid:
        """Images to P2 to P6."""
        x = normalize(self.config.pixels, images, image_size, self.config.compute_dtype)
        return self.fpn(self.backbone(x, padded_size, train), padded_size, train)

    def init_layers(self, images: Array, image_size: Int[Array, "B 2"]) -> None:
        """Runs every layer once, so that `init` makes all parameters."""
        pyramid = self.features(images, image_size, image_size, train=False)
        self.rpn_head(pyramid)
        channels = self.config.fpn_channels
        box, mask = self.config.box.pooler_resolution, self.config.mask.pooler_resolution
        self.box_head(jnp.zeros((1, box, box, channels)), jnp.ones((1,), bool), train=False)
        self.mask_head(jnp.zeros((1, mask, mask, channels)), jnp.ones((1,), bool), train=False)


def _loss(net: MaskRCNN, batch: Batch, key: jax.Array) -> dict[str, LossTerm]:
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    image_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.index)
    rpn_keys, roi_keys = jax.vmap(jax.random.split, out_axes=1)(image_keys)

    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    output = net.rpn_head(pyramid)
    anchors = rpn.make_anchors(config.rpn, pyramid, padded_size)
    samples = rpn.sample_anchors(config.rpn, anchors, batch, rpn_keys)
    terms = rpn.rpn_losses(config.rpn, output, anchors, samples, batch)

    proposals = rpn.propose(config.rpn, output, anchors, batch.image_size, train=True)
    rois = sample_rois(config.box, proposals, batch, roi_keys)
    return terms | roi_losses(net, pyramid, rois, batch)


def roi_losses(net: MaskRCNN, pyramid: Pyramid, rois: RoIs, batch: Batch) -> dict[str, LossTerm]:
    """The losses of both heads on sampled RoIs; masks are learned on the positive ones."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    pooled = pool(config.roi_align, pyramid, rois.boxes, padded_size, config.box.pooler_resolution)
    logits, deltas = net.box_head(pooled, rois.valid.reshape(-1), train=True)
    terms = box_losses(config.box, logits, deltas, rois, batch)

    most_positives = int(config.box.batch_size_per_image * config.box.positive_fraction)
    positives = RoIs(*(x[:, :most_positives] for x in rois))
    pooled = pool(
        config.roi_align, pyramid, positives.boxes, padded_size, config.mask.pooler_resolution
    )
    mask_logits = net.mask_head(pooled, positives.positive.reshape(-1), train=True)
    return terms | {"mask": mask_loss(config.mask, mask_logits, positives, batch)}


def _predict(net: MaskRCNN, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    anchors = rpn.make_anchors(config.rpn, pyramid, padded_size)
    proposals = rpn.propose(config.rpn, net.rpn_head(pyramid), anchors, image_size, train=False)

    pooled = pool(
        config.roi_align, pyramid, proposals.boxes, padded_size, config.box.pooler_resolution
    )
    logits, deltas = net.box_head(pooled, proposals.valid.reshape(-1), train=False)
    batch, slots = proposals.valid.shape
    boxes, scores, labels, valid = jax.vmap(lambda *image: select_detections(config.box, *image))(
        logits.reshape(batch, slots, *logits.shape[1:]),
        deltas.reshape(batch, slots, *deltas.shape[1:]),
        proposals,
        image_size,
    )
    pooled = pool(config.roi_align, pyramid, boxes, padded_size, config.mask.pooler_resolution)
    mask_logits = net.mask_head(pooled, valid.reshape(-1), train=False)
    masks = nn.sigmoid(select_class_mask(config.mask, mask_logits, labels.reshape(-1)))
    masks = jnp.where(valid[..., None, None], masks.reshape(*valid.shape, *masks.shape[1:]), 0)
    return Detections(boxes, scores, labels, masks, valid, MaskFrame(config.mask.paste))
