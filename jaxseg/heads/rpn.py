"""Region proposal network over a feature pyramid (Ren et al. 2015, arXiv 1506.01497).

Terms:
    A         anchors per cell, one for every aspect ratio
    K         anchors of an image, all levels together, in the order (level, y, x, anchor)
    S         anchors sampled per image
    logit     objectness before the sigmoid, one for each anchor
    deltas    box regression, four for each anchor, relative to the anchor
    P         proposal slots, padded; `valid` marks the used ones
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from jaxseg import losses, ops
from jaxseg.heads.roi_sampling import Proposals
from jaxseg.nn.activation import relu
from jaxseg.nn.conv import Conv, convolve
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import level_extent
from jaxseg.types import Batch, LossTerm


@dataclasses.dataclass(frozen=True)
class RPNConfig:
    """Settings of Lin et al. 2017, section 4.1, with Detectron2's numbers of proposals."""

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side in pixels, one for each level, finest first."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    round_anchors: bool = False
    """Round anchors to whole pixels and step by the padded size over the map's, as torchvision."""
    num_convs: int = 1
    """3x3 convolutions of the head."""
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    min_pos_iou: float = 0.0
    """Least IoU at which an object's best anchors are positive too ("low-quality matches")."""
    low_quality_overrides: bool = False
    """Match the anchor of a low-quality match with the object that it is best for, as MMDetection,
    and not with the object that it overlaps most."""
    batch_size_per_image: int = 256
    """Anchors sampled per image in training."""
    positive_fraction: float = 0.5
    allowed_border: int = -1
    """Train those anchors alone that end less than this many pixels outside the image, as in Ren et
    al. 2015 (0: wholly inside); -1 trains all."""
    count_empty: bool = False
    """Count at least one positive and one negative anchor in each image, as MMDetection does: the
    losses are divided by one more for each image without objects."""
    pre_nms_topk_train: int = 2000
    """Best anchors of each level that NMS receives in training."""
    pre_nms_topk_test: int = 1000
    post_nms_topk_train: int = 1000
    post_nms_topk_test: int = 1000
    nms_threshold: float = 0.7
    min_size: float = 0.0
    """Proposals with a shorter side are dropped, in pixels; 0.001 in torchvision."""
    smooth_l1_beta: float = 1 / 9


class Anchors(NamedTuple):
    """All anchors of a batch's images."""

    boxes: Float[Array, "B K 4"]
    ids: Int[Array, " K"]
    """A number for each anchor that does not depend on the padding; random draws use it."""
    valid: Bool[Array, "B K"]
    """False for anchors of cells in the padding."""
    level_sizes: tuple[int, ...]
    """The number of anchors of each level, finest first; they sum to K."""


class RPNOutput(NamedTuple):
    """Objectness and box regression of all anchors."""

    logits: Float[Array, "B K"]
    deltas: Float[Array, "B K 4"]


class Conv1x1Params(nn.Module):
    """The kernel and bias of a 1x1 convolution, named as `Conv` names them."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "1 1 C D"], Float[Array, " D"]]:
        shape = (1, 1, channels, self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))


class RPNHead(nn.Module):
    """The 3x3 convolutions and two 1x1 convolutions shared by all levels."""

    num_anchors: int
    num_convs: int

    @nn.compact
    def __call__(self, pyramid: Pyramid) -> RPNOutput:
        init = nn.initializers.normal(0.01)
        _, _, _, channels = next(iter(pyramid.values())).shape
        dtype = next(iter(pyramid.values())).dtype
        convs = [
            Conv(channels, (3, 3), padding=1, kernel_init=init, dtype=dtype, name=f"conv{number}")
            for number in range(1, self.num_convs + 1)
        ]
        # One product gives both outputs: each alone would fill few lanes of a TPU, and read the
        # features, and write their gradient, once more.
        outputs = [
            Conv1x1Params(self.num_anchors, name="logit")(channels),
            Conv1x1Params(4 * self.num_anchors, name="delta")(channels),
        ]
        kernel, bias = (jnp.concatenate(x, -1).astype(dtype) for x in zip(*outputs, strict=True))
        logits, deltas = [], []
        for x in pyramid.values():
            for conv in convs:
                x = relu(conv(x))
            both = convolve(x, kernel, (1, 1), ((0, 0), (0, 0)))
            logit, delta = jnp.split(both + bias[None, None, None], [self.num_anchors], axis=-1)
            logits.append(logit.reshape(x.shape[0], -1))  # [B, h w A]
            deltas.append(delta.reshape(x.shape[0], -1, 4))  # [B, h w A, 4]
        float32 = jnp.float32
        return RPNOutput(
            jnp.concatenate(logits, 1).astype(float32), jnp.concatenate(deltas, 1).astype(float32)
        )


def make_anchors(config: RPNConfig, pyramid: Pyramid, padded_size: Int[Array, "B 2"]) -> Anchors:
    """Make the anchors of every cell of every level."""
    boxes, ids, valid = [], [], []
    for level, (stride, x) in enumerate(pyramid.items()):
        grid_shape = (x.shape[1], x.shape[2])
        cell = ops.cell_anchors(
            (config.anchor_sizes[level],), config.aspect_ratios, rounded=config.round_anchors
        )
        extent = level_extent(padded_size, stride)
        step = padded_size // extent if config.round_anchors else jnp.full_like(padded_size, stride)
        boxes.append(jax.vmap(ops.grid_anchors, (None, None, 0))(cell, grid_shape, step))
        # The id packs level, y and x in 11 bits each, so that a wider map changes no other id.
        row, column, number = ops.anchor_cells(grid_shape, len(cell))
        ids.append(((level << 11 | row) << 11 | column) * len(cell) + number)
        valid.append((row[None] < extent[:, :1]) & (column[None] < extent[:, 1:]))
    return Anchors(
        boxes=jnp.concatenate(boxes, 1),
        ids=jnp.concatenate(ids),
        valid=jnp.concatenate(valid, 1),
        level_sizes=tuple(len(i) for i in ids),
    )


def generate_proposals(
    config: RPNConfig,
    output: RPNOutput,
    anchors: Anchors,
    image_size: Int[Array, "B 2"],
    train: bool,
) -> Proposals:
    """Decode the best anchors of each level, apply NMS within it, and keep the best of all levels.

    The limits are those of training or of prediction. No gradient flows through the proposals.
    """
    pre_nms_topk = config.pre_nms_topk_train if train else config.pre_nms_topk_test
    post_nms_topk = config.post_nms_topk_train if train else config.post_nms_topk_test
    level_starts = np.cumsum(anchors.level_sizes)[:-1].tolist()

    def one_image(
        logits: Array, deltas: Array, anchor_boxes: Array, valid: Array, size: Array
    ) -> Proposals:
        scores = jnp.where(valid, logits, -jnp.inf)
        boxes, kept = [], []
        for level_scores, level_deltas, level_anchors in zip(
            jnp.split(scores, level_starts),
            jnp.split(deltas, level_starts),
            jnp.split(anchor_boxes, level_starts),
            strict=True,
        ):
            best, index = jax.lax.top_k(level_scores, min(pre_nms_topk, level_scores.shape[0]))
            decoded = ops.decode_boxes(level_deltas[index], level_anchors[index])
            box = ops.clip_boxes(decoded, size)
            usable = (best > -jnp.inf) & ops.min_size_mask(box, config.min_size)
            keep = ops.nms(box, best, config.nms_threshold, usable)
            boxes.append(box)
            kept.append(jnp.where(keep, best, -jnp.inf))
        return _best_boxes(jnp.concatenate(boxes), jnp.concatenate(kept), post_nms_topk)

    proposals = jax.vmap(one_image)(
        output.logits, output.deltas, anchors.boxes, anchors.valid, image_size
    )
    return jax.lax.stop_gradient(proposals)


def _best_boxes(boxes: Float[Array, "K 4"], scores: Float[Array, " K"], slots: int) -> Proposals:
    """Return the `slots` best boxes with a finite score, filled up with zeros."""
    best, index = jax.lax.top_k(scores, min(slots, scores.shape[0]))
    missing = slots - best.shape[0]
    valid = jnp.pad(best > -jnp.inf, (0, missing))
    padded = jnp.pad(boxes[index], ((0, missing), (0, 0)))
    return Proposals(jnp.where(valid[:, None], padded, 0), valid)


class AnchorSamples(NamedTuple):
    """Anchors sampled for training."""

    anchor: Int[Array, "*B S"]
    valid: Bool[Array, "*B S"]
    positive: Bool[Array, "*B S"]
    gt_index: Int[Array, "*B S"]  # the object that a positive anchor is matched with


def sample_anchors(
    config: RPNConfig, anchors: Anchors, batch: Batch, keys: Key[Array, " B"]
) -> AnchorSamples:
    """Match anchors with objects, and sample anchors to learn from.

    At most `positive_fraction` of the `batch_size_per_image` anchors are positive; negatives fill
    the rest. `keys` are the images' own random keys.
    """

    def one_image(
        boxes: Array, valid: Array, size: Array, gt_boxes: Array, gt_valid: Array, key: Array
    ) -> AnchorSamples:
        if config.allowed_border >= 0:
            valid &= _inside(boxes, size, config.allowed_border)
        matches = ops.match(
            ops.box_iou(boxes, gt_boxes),
            gt_valid,
            high=config.positive_iou,
            low=config.negative_iou,
            min_pos_iou=config.min_pos_iou,
            low_quality_overrides=config.low_quality_overrides,
            anchor_valid=valid,
        )
        sample = ops.sample_balanced(
            ops.random_priority(key, anchors.ids),
            matches.positive,
            matches.negative,
            size=config.batch_size_per_image,
            positive_fraction=config.positive_fraction,
        )
        return AnchorSamples(
            sample.indices, sample.valid, sample.positive, matches.gt_index[sample.indices]
        )

    return jax.vmap(one_image)(
        anchors.boxes, anchors.valid, batch.image_size, batch.boxes, batch.valid, keys
    )


def _inside(
    boxes: Float[Array, "K 4"], image_size: Int[Array, " 2"], border: int
) -> Bool[Array, " K"]:
    """Return whether each box ends less than `border` pixels outside the image."""
    x1, y1, x2, y2 = boxes.T
    height, width = image_size.astype(boxes.dtype)
    after = (x1 >= -border) & (y1 >= -border)
    return after & (x2 < width + border) & (y2 < height + border)


def rpn_losses(
    config: RPNConfig, output: RPNOutput, anchors: Anchors, samples: AnchorSamples, batch: Batch
) -> dict[str, LossTerm]:
    """Compute objectness and box losses on the sampled anchors, both over their number."""
    take = jax.vmap(lambda values, index: values[index])
    logits = take(output.logits, samples.anchor)  # [B, S]
    gt_boxes = take(batch.boxes, samples.gt_index)  # [B, S, 4]
    target = ops.encode_boxes(gt_boxes, take(anchors.boxes, samples.anchor))
    class_loss = losses.sigmoid_cross_entropy(logits, samples.positive.astype(logits.dtype))
    deltas = take(output.deltas, samples.anchor)
    box_loss = losses.smooth_l1_loss(deltas, target, beta=config.smooth_l1_beta).sum(-1)
    count = samples.valid.sum()
    if config.count_empty:
        negative = samples.valid & ~samples.positive
        count = (
            jnp.maximum(samples.positive.sum(1), 1).sum() + jnp.maximum(negative.sum(1), 1).sum()
        )
    count = count.astype(logits.dtype)
    return {
        "rpn_class": LossTerm(jnp.where(samples.valid, class_loss, 0).sum(), count),
        "rpn_box": LossTerm(jnp.where(samples.positive, box_loss, 0).sum(), count),
    }
