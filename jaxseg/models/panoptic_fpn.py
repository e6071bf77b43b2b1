"""Panoptic FPN: Mask R-CNN with a semantic branch (Kirillov et al. 2019, arXiv 1901.02446).

images -> backbone -> FPN -> Mask R-CNN's RPN and heads -> instances of things
                          -> semantic head -> for each cell, a class of stuff or "thing"

Both are predicted on their own; `jaxseg.evaluation` merges them into one panoptic map.

Terms:
    channels  of the semantic logits: the stuff classes in the order of their labels, and last all
              things as one class
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxseg import losses
from jaxseg.heads.semantic_fpn import SemanticFPNHead
from jaxseg.model import Model
from jaxseg.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, detect_instances, instance_losses
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import level_extent, round_up_size
from jaxseg.nn.resize import repeat_border
from jaxseg.types import (
    IGNORED,
    Average,
    Batch,
    Detections,
    HeuristicMerging,
    LossTerm,
    PanopticMerging,
    TargetSpec,
)

STRIDE = 4
"""Stride of the semantic logits and of the ground truth that they learn from."""


@dataclasses.dataclass(frozen=True)
class SemanticHeadConfig:
    """Settings of the semantic head; the defaults are the paper's, section 3."""

    conv_dim: int = 128
    norm_groups: int = 32
    loss_weight: float = 0.5
    """Weight of its loss beside Mask R-CNN's."""
    count_ignored: bool = False
    """Divide the loss by the cells of the whole images, each padded to `size_divisibility`, as
    MMDetection does, and not by those that have a label."""


@dataclasses.dataclass(frozen=True)
class PanopticFPNConfig(MaskRCNNConfig):
    """Settings of a Panoptic FPN: those of Mask R-CNN, and more; the defaults are R50-FPN on COCO.

    `num_classes` are the classes of things.
    """

    num_stuff_classes: int = 53
    semantic: SemanticHeadConfig = SemanticHeadConfig()
    merging: HeuristicMerging = HeuristicMerging()

    def build(self) -> Model:
        """Return the model.

        Images are those of Mask R-CNN, and so are the losses, besides the term `semantic`.

        >>> PanopticFPNConfig(num_classes=3, num_stuff_classes=2).build().targets.semantic_stride
        4
        """
        return build_model(
            PanopticFPN(self),
            self.backbone,
            TargetSpec(masks=self.mask.gt_masks, semantic_stride=STRIDE),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class PanopticFPN(MaskRCNN):
    """The layers of Mask R-CNN and the semantic head."""

    config: PanopticFPNConfig

    def setup(self) -> None:
        super().setup()
        semantic = self.config.semantic
        self.semantic_head = SemanticFPNHead(
            self.config.num_stuff_classes + 1, semantic.conv_dim, semantic.norm_groups
        )

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call Mask R-CNN's heads and the semantic head."""
        super().init_heads(pyramid, image_size)
        self.semantic_head(pyramid, image_size)


def _loss(
    net: PanopticFPN, batch: Batch, key: jax.Array
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    padded_size = round_up_size(batch.image_size, net.config.size_divisibility)
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    terms = instance_losses(net, pyramid, batch, key)
    logits = net.semantic_head(pyramid, padded_size)
    return terms | {"semantic": semantic_loss(net.config, logits, batch)}, {}


def semantic_loss(
    config: PanopticFPNConfig, logits: Float[Array, "B h w C"], batch: Batch
) -> LossTerm:
    """Compute cross-entropy, summed over the cells that have a label.

    Raises ValueError if the batch has no semantic map.
    """
    if batch.semantic is None:
        raise ValueError("the semantic head learns from a map of classes: give `batch.semantic`")
    channel, labelled = semantic_targets(config, batch.semantic)
    loss = losses.softmax_cross_entropy(logits, channel)
    count = labelled.sum()
    if config.semantic.count_ignored:
        padded_size = round_up_size(batch.image_size, config.size_divisibility)
        count = level_extent(padded_size, STRIDE).prod(1).sum()
    total = jnp.where(labelled, loss, 0).sum()
    return LossTerm(total, count.astype(loss.dtype), config.semantic.loss_weight)


def semantic_targets(
    config: PanopticFPNConfig, semantic: UInt8[Array, "B h w"]
) -> tuple[Int[Array, "B h w"], Bool[Array, "B h w"]]:
    """Return the channel of each cell's label, and which cells have one."""
    labelled = semantic != IGNORED
    label = semantic.astype(jnp.int32) - config.num_classes
    things = config.num_stuff_classes
    return jnp.where(labelled & (label >= 0), label, things), labelled


def _predict(net: PanopticFPN, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    padded_size = round_up_size(image_size, net.config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    found = detect_instances(net, pyramid, image_size)
    logits = net.semantic_head(pyramid, padded_size)
    return found._replace(
        semantic=repeat_border(logits, level_extent(padded_size, STRIDE)),
        panoptic_merging=PanopticMerging(net.config.num_classes, net.config.merging),
    )
