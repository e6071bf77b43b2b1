"""The box head of the R-CNN family (Girshick 2015, arXiv 1504.08083; Lin et al. 2017).

    proposals -> sampled RoIs -> pooled features -> class logits, deltas -> losses
    proposals                 -> pooled features -> class logits, deltas -> detections

Terms:
    R, P      RoI or proposal slots of an image, padded
    class     the last of the C + 1 class logits is the background's
    deltas    box regression, four for each class (for all together if class-agnostic),
              relative to the RoI
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg import losses, ops
from jaxseg.heads.conv_stack import conv_stack
from jaxseg.heads.roi_sampling import Proposals, RoIs
from jaxseg.nn.activation import relu
from jaxseg.nn.norm import NormKind
from jaxseg.types import Batch, LossTerm


@dataclasses.dataclass(frozen=True)
class BoxHeadConfig:
    """Settings of a box head; the defaults are the two layers of Lin et al. 2017, section 5.2."""

    num_convs: int = 0
    """3x3 convolutions before the fully connected layers: 4 in the "4conv1fc" head of Wu & He
    2018 (arXiv 1803.08494)."""
    conv_dim: int = 256
    """Channels of these convolutions."""
    num_fc: int = 2
    fc_dim: int = 1024
    pooler_resolution: int = 7
    cls_agnostic_bbox_reg: bool = False
    """One box for all classes instead of one for each."""
    batch_size_per_image: int = 512
    """RoIs sampled per image in training."""
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    low_quality_overrides: bool = False
    """Match the proposal that overlaps an object most, if it is positive, with that object even
    where it overlaps another one more, as MMDetection's Mask R-CNN does."""
    bbox_reg_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Smooth L1 of the deltas, or generalised IoU of the decoded boxes."""
    box_loss_weight: float = 1.0
    smooth_l1_beta: float = 1 / 9
    """0 is the L1 loss, as in Detectron2 and MMDetection."""
    score_threshold: float = 0.05
    min_size: float = 0.0
    """Detections with a shorter side are dropped, in pixels; 0.01 in torchvision."""
    nms_threshold: float = 0.5
    cls_agnostic_nms: bool = False
    """Let detections of all classes suppress each other, as MMDetection's Panoptic FPN does."""
    pre_nms_topk: int = 2000
    """Best (box, class) pairs that NMS receives. The result is exact unless NMS keeps fewer than
    `detections_per_image` of them while more pairs pass the score threshold."""
    detections_per_image: int = 100


class BoxHead(nn.Module):
    """Pooled features `[R, p, p, D]` to class logits `[R, C+1]` and deltas `[R, outputs, 4]`."""

    config: BoxHeadConfig
    num_classes: int
    outputs: int
    norm: NormKind | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "R p p D"], valid: Bool[Array, " R"], train: bool
    ) -> tuple[Float[Array, "R _C"], Float[Array, "R _outputs 4"]]:
        config = self.config
        x = conv_stack(
            x,
            valid,
            num_convs=config.num_convs,
            channels=config.conv_dim,
            norm=self.norm,
            train=train,
        )
        x = x.reshape(x.shape[0], -1)
        xavier = nn.initializers.xavier_uniform()
        normal = nn.initializers.normal

        def dense(x: Array, features: int, init: nn.initializers.Initializer, name: str) -> Array:
            return nn.Dense(features, kernel_init=init, dtype=x.dtype, name=name)(x)

        for number in range(1, config.num_fc + 1):
            x = relu(dense(x, config.fc_dim, xavier, f"hidden{number}"))
        logits = dense(x, self.num_classes + 1, normal(0.01), "logit").astype(jnp.float32)
        deltas = dense(x, 4 * self.outputs, normal(0.001), "delta").astype(jnp.float32)
        return logits, deltas.reshape(-1, self.outputs, 4)


def box_losses(
    config: BoxHeadConfig,
    logits: Float[Array, "BR _C"],
    deltas: Float[Array, "BR _outputs 4"],
    rois: RoIs,
    batch: Batch,
) -> dict[str, LossTerm]:
    """Compute classification and box regression, both over the number of sampled RoIs."""
    take = jax.vmap(lambda values, index: values[index])
    valid, positive = rois.valid.reshape(-1), rois.positive.reshape(-1)
    labels = take(batch.labels, rois.gt_index).reshape(-1)  # [B R]
    background = logits.shape[1] - 1
    class_loss = losses.softmax_cross_entropy(logits, jnp.where(positive, labels, background))
    box_loss = regression_loss(
        config,
        select_class_deltas(config, deltas, labels),
        rois.boxes.reshape(-1, 4),
        take(batch.boxes, rois.gt_index).reshape(-1, 4),
    )
    count = valid.sum().astype(logits.dtype)
    return {
        "box_class": LossTerm(jnp.where(valid, class_loss, 0).sum(), count),
        "box": LossTerm(jnp.where(positive, box_loss, 0).sum(), count, config.box_loss_weight),
    }


def regression_loss(
    config: BoxHeadConfig,
    deltas: Float[Array, "R 4"],
    rois: Float[Array, "R 4"],
    gt_boxes: Float[Array, "R 4"],
) -> Float[Array, " R"]:
    """Compute the loss between each RoI's deltas and those of its ground-truth box."""
    if config.box_loss == "giou":
        decoded = ops.decode_boxes(deltas, rois, config.bbox_reg_weights)
        return losses.giou_loss(decoded, gt_boxes)
    target = ops.encode_boxes(gt_boxes, rois, config.bbox_reg_weights)
    return losses.smooth_l1_loss(deltas, target, beta=config.smooth_l1_beta).sum(-1)


def select_class_deltas(
    config: BoxHeadConfig, deltas: Float[Array, "R _outputs 4"], labels: Int[Array, " R"]
) -> Float[Array, "R 4"]:
    """Select the deltas of each RoI's class (the only ones, if class-agnostic)."""
    output = jnp.zeros_like(labels) if config.cls_agnostic_bbox_reg else labels
    return jnp.take_along_axis(deltas, output[:, None, None], axis=1)[:, 0]


def refine_boxes(
    config: BoxHeadConfig,
    deltas: Float[Array, "R _outputs 4"],
    labels: Int[Array, " R"],
    rois: Float[Array, "R 4"],
    image_size: Int[Array, " 2"],
) -> Float[Array, "R 4"]:
    """Decode the deltas of each RoI's class and clip the box at the image's border."""
    chosen = select_class_deltas(config, deltas, labels)
    return ops.clip_boxes(ops.decode_boxes(chosen, rois, config.bbox_reg_weights), image_size)


def class_scores(logits: Float[Array, "*P _C"]) -> Float[Array, "*P _classes"]:
    """Return the softmax over all classes, without the background's."""
    return nn.softmax(logits)[..., :-1]


def select_detections(
    config: BoxHeadConfig,
    scores: Float[Array, "P C"],
    deltas: Float[Array, "P _outputs 4"],
    proposals: Proposals,
    image_size: Int[Array, " 2"],
) -> tuple[Float[Array, "D 4"], Float[Array, " D"], Int[Array, " D"], Bool[Array, " D"]]:
    """Select one image's best detections by NMS, per class unless it is class-agnostic.

    Returns boxes, scores, labels and `valid`, best score first; unused slots hold zeros.
    """
    num_classes = scores.shape[1]
    flat = jnp.where(proposals.valid[:, None], scores, 0).reshape(-1)  # [P C]
    top, pair = jax.lax.top_k(flat, min(config.pre_nms_topk, flat.shape[0]))  # [K]
    proposal, label = pair // num_classes, pair % num_classes
    boxes = refine_boxes(config, deltas[proposal], label, proposals.boxes[proposal], image_size)
    usable = (top > config.score_threshold) & ops.min_size_mask(boxes, config.min_size)
    group = jnp.zeros_like(label) if config.cls_agnostic_nms else label
    keep = ops.batched_nms(boxes, top, group, config.nms_threshold, usable)
    missing = max(config.detections_per_image - top.shape[0], 0)
    kept = jnp.pad(jnp.where(keep, top, 0), (0, missing))
    best, index = jax.lax.top_k(kept, config.detections_per_image)  # [D]
    valid = best > 0
    index = jnp.where(valid, index, 0)
    return (
        jnp.where(valid[:, None], boxes[index], 0),
        best,
        jnp.where(valid, label[index], 0),
        valid,
    )
