"""The box head of the R-CNN family (Girshick 2015, arXiv 1504.08083; Lin et al. 2017).

    proposals -> sampled RoIs -> pooled features -> class logits, deltas -> losses
    proposals                 -> pooled features -> class logits, deltas -> detections

Terms:
    R, P      RoI or proposal slots of an image, padded
    class     the last of the C + 1 class logits stands for "background"
    deltas    box regression, four for each class (for all together if class-agnostic),
              relative to the RoI
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg import losses, ops
from jaxseg.heads.conv_stack import conv_stack
from jaxseg.heads.rpn import Proposals
from jaxseg.nn.norm import NormKind
from jaxseg.types import Batch, LossTerm


@dataclasses.dataclass(frozen=True)
class BoxHeadConfig:
    """The defaults are the two fully connected layers of Lin et al. 2017, section 5.2."""

    num_convs: int = 0
    """3x3 convolutions before the fully connected layers: 4 in the "4conv1fc" head of Wu & He
    2018 (arXiv 1803.08494)."""
    conv_dim: int = 256
    """Of these convolutions."""
    num_fc: int = 2
    fc_dim: int = 1024
    pooler_resolution: int = 7
    cls_agnostic_bbox_reg: bool = False
    """One box for all classes instead of one for each."""
    batch_size_per_image: int = 512
    """RoIs sampled per image in training."""
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
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
    pre_nms_topk: int = 2000
    """Best (box, class) pairs that NMS sees; it is exact unless these keep fewer than
    `detections` while more pairs pass the score threshold."""
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
            convs=config.num_convs,
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
            x = nn.relu(dense(x, config.fc_dim, xavier, f"hidden{number}"))
        logits = dense(x, self.num_classes + 1, normal(0.01), "logit").astype(jnp.float32)
        deltas = dense(x, 4 * self.outputs, normal(0.001), "delta").astype(jnp.float32)
        return logits, deltas.reshape(-1, self.outputs, 4)


class RoIs(NamedTuple):
    """RoIs sampled for training, the positives first."""

    boxes: Float[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    positive: Bool[Array, "*B R"]
    gt_index: Int[Array, "*B R"]  # the object that a positive RoI is matched with


_GT_IDS = 1 << 20


def sample_rois(config: BoxHeadConfig, proposals: Proposals, batch: Batch, keys: Array) -> RoIs:
    """A quarter of positives among proposals and the objects' own boxes, rest background."""

    def one_image(proposals: Proposals, gt: Array, valid: Array, key: Array) -> RoIs:
        boxes = jnp.concatenate([proposals.boxes, gt])
        matches = ops.match(
            ops.box_iou(boxes, gt),
            valid,
            high=config.positive_iou,
            low=config.positive_iou,
            low_quality=None,
            anchor_valid=jnp.concatenate([proposals.valid, valid]),
        )
        ids = jnp.concatenate([jnp.arange(len(proposals.boxes)), _GT_IDS + jnp.arange(gt.shape[0])])
        sample = ops.sample_balanced(
            ops.random_priority(key, ids),
            matches.positive,
            matches.negative,
            size=config.batch_size_per_image,
            positive_fraction=config.positive_fraction,
        )
        rois = jnp.where(sample.valid[:, None], boxes[sample.indices], 0)
        return RoIs(rois, sample.valid, sample.positive, matches.gt_index[sample.indices])

    return jax.vmap(one_image)(proposals, batch.boxes, batch.valid, keys)


def box_losses(
    config: BoxHeadConfig,
    logits: Float[Array, "BR _C"],
    deltas: Float[Array, "BR _outputs 4"],
    rois: RoIs,
    batch: Batch,
) -> dict[str, LossTerm]:
    """Classification and box regression, both over the number of sampled RoIs."""
    take = jax.vmap(lambda values, index: values[index])
    valid, positive = rois.valid.reshape(-1), rois.positive.reshape(-1)
    labels = take(batch.labels, rois.gt_index).reshape(-1)
    background = logits.shape[1] - 1
    class_loss = losses.softmax_cross_entropy(logits, jnp.where(positive, labels, background))
    chosen = jnp.zeros_like(labels) if config.cls_agnostic_bbox_reg else labels
    box_loss = regression_loss(
        config,
        jnp.take_along_axis(deltas, chosen[:, None, None], axis=1)[:, 0],
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
    deltas: Float[Array, "N 4"],
    rois: Float[Array, "N 4"],
    gt_boxes: Float[Array, "N 4"],
) -> Float[Array, " N"]:
    """How far each RoI's deltas are from leading to its ground-truth box."""
    if config.box_loss == "giou":
        return losses.giou_loss(ops.decode_boxes(deltas, rois, config.bbox_reg_weights), gt_boxes)
    target = ops.encode_boxes(gt_boxes, rois, config.bbox_reg_weights)
    return losses.smooth_l1_loss(deltas, target, beta=config.smooth_l1_beta).sum(-1)


def select_detections(
    config: BoxHeadConfig,
    logits: Float[Array, "P _C"],
    deltas: Float[Array, "P _outputs 4"],
    proposals: Proposals,
    image_size: Int[Array, " 2"],
) -> tuple[Float[Array, "D 4"], Float[Array, " D"], Int[Array, " D"], Bool[Array, " D"]]:
    """Boxes, scores, labels and `valid` of one image's best detections after per-class NMS."""
    num_classes = logits.shape[1] - 1
    scores = jnp.where(proposals.valid[:, None], nn.softmax(logits)[:, :-1], 0).reshape(-1)
    top, pair = jax.lax.top_k(scores, min(config.pre_nms_topk, scores.shape[0]))
    proposal, label = pair // num_classes, pair % num_classes
    chosen = jnp.zeros_like(label) if config.cls_agnostic_bbox_reg else label
    boxes = ops.decode_boxes(
        deltas[proposal, chosen], proposals.boxes[proposal], config.bbox_reg_weights
    )
    boxes = ops.clip_boxes(boxes, image_size)
    usable = (top > config.score_threshold) & ops.min_size_mask(boxes, config.min_size)
    keep = ops.batched_nms(boxes, top, label, config.nms_threshold, usable)
    missing = max(config.detections_per_image - top.shape[0], 0)
    kept = jnp.pad(jnp.where(keep, top, 0), (0, missing))
    best, index = jax.lax.top_k(kept, config.detections_per_image)
    valid = best > 0
    index = jnp.where(valid, index, 0)
    return (
        jnp.where(valid[:, None], boxes[index], 0),
        best,
        jnp.where(valid, label[index], 0),
        valid,
    )
