"""PointRend on Mask R-CNN (Kirillov et al. 2020, arXiv 1912.08193, section 4).

images -> backbone -> FPN -> RPN -> proposals -> RoIAlign -> box head -> boxes, classes
                       P2 at a grid of points of each box -> coarse head -> a coarse mask each
    P2 and the coarse mask at the uncertain points of each box -> point head -> finer masks

Terms:
    R       RoI slots, of all images together
    F       the first RoI slots of an image, as many as there may be positives
    P       points of a RoI, `(x, y)` in [0, 1] of its box
    S       side of a coarse mask, half that of the features it is made of (7 in the paper)
    fine    features of P2, the finest level, whatever the size of the RoI
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxseg import losses, ops
from jaxseg.heads import rcnn
from jaxseg.heads.box_head import BoxHead
from jaxseg.heads.mask_head import (
    ClassLogit,
    MaskSamples,
    detection_masks,
    mask_loss_total,
    mask_targets,
)
from jaxseg.heads.roi_sampling import RoIs
from jaxseg.model import Model
from jaxseg.nn.activation import relu
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import round_up_size
from jaxseg.nn.resize import upsample2x
from jaxseg.nn.resnet import he_normal
from jaxseg.types import (
    Average,
    Batch,
    BoxCrops,
    Detections,
    ImageMasks,
    LossTerm,
    MaskFrame,
    TargetSpec,
)

STRIDE = 4
"""Stride of P2."""


@dataclasses.dataclass(frozen=True)
class CoarseMaskConfig:
    """Settings of the coarse head: a 2x2 convolution of stride 2, then fully connected layers."""

    pooler_resolution: int = 14
    """Points along each side of a box at which P2 is read; the coarse mask has half as many."""
    conv_dim: int = 256
    num_fc: int = 2
    fc_dim: int = 1024
    mask_targets: Literal["box_crop", "binary"] = "box_crop"
    """The ground truth in a RoI. `box_crop`: the mask cropped to its object's box at
    `gt_mask_size`, the only one that is light enough for long trainings. `binary`: the mask of the
    whole image, as in Detectron2 and MMDetection."""
    gt_mask_size: int = 224
    """Side of the ground-truth masks that are cropped to their boxes. At single points of large
    objects, crops of 224 have half the error of 112 (docs/benchmarks.md)."""

    def __post_init__(self) -> None:
        if self.pooler_resolution < 2 or self.pooler_resolution % 2:
            raise ValueError(
                f"coarse: pooler_resolution {self.pooler_resolution} must be even: the coarse mask "
                "has half of it"
            )

    @property
    def gt_masks(self) -> BoxCrops | ImageMasks:
        """Return the ground-truth masks that the targets are made from."""
        if self.mask_targets == "box_crop":
            return BoxCrops(self.gt_mask_size)
        return ImageMasks(stride=1)


@dataclasses.dataclass(frozen=True)
class PointHeadConfig:
    """Settings of the point head, and of the points that it learns from and predicts."""

    num_fc: int = 3
    fc_dim: int = 256
    train_num_points: int = 196
    """Points of each RoI in training."""
    oversample_ratio: int = 3
    """Candidates for each point: k of the paper's section 3."""
    importance_sample_ratio: float = 0.75
    """Share of the points that are the most uncertain candidates; the others are random: beta."""
    subdivision_steps: int = 5
    """Doublings of the coarse mask in prediction: from 7x7 to 224x224."""
    subdivision_num_points: int = 784
    """Points that a step predicts again, the most uncertain ones. A step before the last one is
    only a doubling if this number would suffice for all points of the next."""

    def __post_init__(self) -> None:
        if not 0 <= self.importance_sample_ratio <= 1 or self.oversample_ratio < 1:
            raise ValueError(
                f"point: importance_sample_ratio {self.importance_sample_ratio} must be from 0 to "
                f"1 and oversample_ratio {self.oversample_ratio} at least 1"
            )

    def is_refined(self, step: int, side: int) -> bool:
        """Return whether points are predicted after doubling number `step`, the first being 1."""
        return step == self.subdivision_steps or self.subdivision_num_points < 4 * side * side


@dataclasses.dataclass(frozen=True)
class PointRendConfig(rcnn.TwoStageConfig):
    """Settings of a PointRend; the defaults are R50-FPN on COCO."""

    coarse: CoarseMaskConfig = CoarseMaskConfig()
    point: PointHeadConfig = PointHeadConfig()

    def build(self) -> Model:
        """Return the model.

        Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
        32 and of `size_divisibility`. `loss` returns the terms `rpn_class`, `rpn_box`, `box_class`,
        `box`, `mask` (the coarse one) and `point`.

        >>> model = PointRendConfig(num_classes=3).build()
        >>> model.targets.masks
        BoxCrops(size=224)
        """
        return build_model(
            PointRend(self),
            self.backbone,
            TargetSpec(masks=self.coarse.gt_masks),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class CoarseMaskHead(nn.Module):
    """Features at a grid of points `[R, 2S, 2S, D]` to mask logits of all classes."""

    config: CoarseMaskConfig
    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "R p p D"]) -> Float[Array, "R S S C"]:
        config, (count, height, width, channels) = self.config, x.shape
        side = (height // 2, width // 2)
        # A 2x2 convolution with stride 2 is a product with the four cells of each new one.
        x = x.reshape(count, side[0], 2, side[1], 2, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(count, *side, 4 * channels)
        conv = nn.Dense(config.conv_dim, kernel_init=he_normal, dtype=x.dtype, name="downsample")
        x = relu(conv(x)).reshape(count, -1)
        xavier = nn.initializers.xavier_uniform()
        for number in range(1, config.num_fc + 1):
            name = f"hidden{number}"
            x = nn.Dense(config.fc_dim, kernel_init=xavier, dtype=x.dtype, name=name)(x)
            x = relu(x)
        outputs, normal = side[0] * side[1] * self.num_classes, nn.initializers.normal(0.001)
        x = nn.Dense(outputs, kernel_init=normal, dtype=x.dtype, name="logit")(x)
        return x.astype(jnp.float32).reshape(count, *side, self.num_classes)


class PointHead(nn.Module):
    """Features and coarse logits of points to the logits of each RoI's class.

    Each layer gets the coarse logits of all classes beside the output of the one before.
    """

    config: PointHeadConfig
    num_classes: int

    @nn.compact
    def __call__(
        self,
        fine: Float[Array, "R P D"],
        coarse: Float[Array, "R P C"],
        labels: Int[Array, " R"],
    ) -> Float[Array, "R P"]:
        x, coarse = fine, coarse.astype(fine.dtype)
        for number in range(1, self.config.num_fc + 1):
            x = jnp.concatenate([x, coarse], axis=-1)
            name = f"hidden{number}"
            dense = nn.Dense(self.config.fc_dim, kernel_init=he_normal, dtype=x.dtype, name=name)
            x = relu(dense(x))
        x = jnp.concatenate([x, coarse], axis=-1)
        logit = ClassLogit(self.num_classes, nn.initializers.normal(0.001), name="logit")
        return logit(x, labels).astype(jnp.float32)


class PointRend(rcnn.Trunk):
    """The layers of PointRend; `_loss` and `_predict` combine them."""

    config: PointRendConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        box_outputs = 1 if config.box.cls_agnostic_bbox_reg else config.num_classes
        self.box_head = BoxHead(config.box, config.num_classes, box_outputs, config.head_norm)
        self.coarse_head = CoarseMaskHead(config.coarse, config.num_classes)
        self.point_head = PointHead(config.point, config.num_classes)

    def coarse_masks(
        self, features: Float[Array, "B H W D"], boxes: Float[Array, "B F 4"]
    ) -> Float[Array, "BF S S C"]:
        """Compute the coarse mask logits of each box, of all images on one axis."""
        side = self.config.coarse.pooler_resolution
        grid = jnp.broadcast_to(ops.grid_points((side, side)), (*boxes.shape[:2], side * side, 2))
        pooled = fine_features(features, boxes, grid)  # [B, F, side^2, D]
        return self.coarse_head(pooled.reshape(-1, side, side, pooled.shape[-1]))

    def init_heads(self, pyramid: Pyramid, image_size: Int[Array, "B 2"]) -> None:
        """Call the box, the coarse and the point head."""
        channels, box = self.config.fpn_channels, self.config.box.pooler_resolution
        self.box_head(jnp.zeros((1, box, box, channels)), jnp.ones((1,), bool), train=False)
        self.coarse_masks(pyramid[STRIDE], jnp.zeros((1, 1, 4)))
        fine, coarse = jnp.zeros((1, 1, channels)), jnp.zeros((1, 1, self.config.num_classes))
        self.point_head(fine, coarse, jnp.zeros((1,), jnp.int32))


def fine_features(
    features: Float[Array, "B H W D"], boxes: Float[Array, "B F 4"], points: Float[Array, "B F P 2"]
) -> Float[Array, "B F P D"]:
    """Return P2 at points of each image's boxes, in its own dtype."""
    sample = jax.vmap(lambda *image: ops.roi_point_sample(*image, spatial_scale=1 / STRIDE))
    return sample(features, boxes, points).astype(features.dtype)


def _loss(
    net: PointRend, batch: Batch, key: jax.Array
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    rpn_keys, roi_keys, point_keys = rcnn.image_keys(key, batch, 3)
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    proposals, terms = rcnn.proposals_and_losses(
        config.rpn, net.rpn_head, pyramid, batch, padded_size, rpn_keys
    )
    rois, _ = rcnn.sample_rois(config.box, proposals, batch, roi_keys)
    terms |= rcnn.box_stage_losses(
        config.box, config.roi_align, net.box_head, pyramid, rois, batch, padded_size
    )
    positives = rcnn.positive_slots(config.box, rois)
    numbers = random_points(config.point, point_keys, positives.boxes.shape[1])
    return terms | mask_losses(net, pyramid[STRIDE], positives, batch, *numbers), {}


def random_points(
    config: PointHeadConfig, keys: Key[Array, " B"], slots: int
) -> tuple[Float[Array, "B F K 2"], Float[Array, "B F Q 2"]]:
    """Draw the candidates for the uncertain points, and the other points, of each RoI slot.

    They depend on the image's key and the slot alone. RoIs are in the order in which they were
    sampled, which padding and the order of the objects do not change.
    """
    candidates = config.oversample_ratio * config.train_num_points
    others = config.train_num_points - int(config.importance_sample_ratio * config.train_num_points)

    def one_image(key: Key[Array, ""]) -> Float[Array, "F _ 2"]:
        return jax.random.uniform(key, (slots, candidates + others, 2))

    points = jax.vmap(one_image)(keys)
    return points[:, :, :candidates], points[:, :, candidates:]


def mask_losses(
    net: PointRend,
    features: Float[Array, "B H W D"],
    rois: RoIs,
    batch: Batch,
    candidates: Float[Array, "B F K 2"],
    others: Float[Array, "B F Q 2"],
) -> dict[str, LossTerm]:
    """Compute the losses of the coarse head and the point head on positive RoIs.

    Both are binary cross-entropy on the true class, averaged over each RoI's cells or points. The
    points are the most uncertain of the `candidates`, and all `others`.
    """
    config = net.config
    kind, side = config.coarse.mask_targets, config.coarse.pooler_resolution // 2
    labels = jax.vmap(lambda values, index: values[index])(batch.labels, rois.gt_index)
    labels, positive = labels.reshape(-1), rois.positive.reshape(-1)  # [R]
    coarse = net.coarse_masks(features, rois.boxes)  # [R, S, S, C]
    of_class = jnp.take_along_axis(coarse, labels[:, None, None, None], axis=-1)[..., 0]
    samples = MaskSamples(mask_targets(kind, rois, batch, side), labels, positive)
    count = positive.sum().astype(coarse.dtype)

    num_uncertain = config.point.train_num_points - others.shape[2]
    choose = jax.vmap(lambda logits, points: ops.uncertain_points(logits, points, num_uncertain))
    uncertain = choose(of_class, candidates.reshape(-1, *candidates.shape[2:]))
    points = jnp.concatenate([uncertain.reshape(*others.shape[:2], -1, 2), others], axis=2)
    points = jax.lax.stop_gradient(points)  # [B, F, P, 2]
    fine = fine_features(features, rois.boxes, points)
    fine, by_roi = (x.reshape(-1, *x.shape[2:]) for x in (fine, points))
    logits = net.point_head(fine, jax.vmap(ops.point_sample)(coarse, by_roi), labels)
    targets = point_targets(kind, rois, batch, points)
    loss = losses.sigmoid_cross_entropy(logits, targets).mean(1)  # [R]
    return {
        "mask": LossTerm(mask_loss_total(of_class, samples), count),
        "point": LossTerm(jnp.where(positive, loss, 0).sum(), count),
    }


def point_targets(
    kind: Literal["box_crop", "binary"], rois: RoIs, batch: Batch, points: Float[Array, "B F P 2"]
) -> Float[Array, "BF P"]:
    """Interpolate the masks of the RoIs' objects at points: targets in [0, 1]."""
    assert batch.masks is not None  # `mask_targets` has raised

    def one_image(
        masks: Array, gt_boxes: Array, boxes: Array, gt_index: Array, points: Array
    ) -> Float[Array, "F P"]:
        in_image = ops.points_in_image(boxes, points)
        if kind == "box_crop":
            return ops.crop_points(masks, gt_boxes, in_image, gt_index)
        size = jnp.asarray([[[masks.shape[2], masks.shape[1]]]], points.dtype)
        return ops.indexed_point_sample(masks[..., None], gt_index, in_image / size)[..., 0]

    targets = jax.vmap(one_image)(batch.masks, batch.boxes, rois.boxes, rois.gt_index, points)
    return targets.reshape(-1, targets.shape[-1])


def _predict(net: PointRend, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    pyramid = net.features(images, image_size, padded_size, train=False)
    proposals = rcnn.propose(config.rpn, net.rpn_head, pyramid, image_size, padded_size)
    found = rcnn.detect_boxes(
        config.box, config.roi_align, net.box_head, pyramid, proposals, image_size, padded_size
    )
    coarse = net.coarse_masks(pyramid[STRIDE], found.boxes)
    logits = refine_masks(net.point_head, pyramid[STRIDE], found.boxes, found.labels, coarse)
    masks = detection_masks(logits, found.valid)
    return Detections(*found, masks=masks, mask_frame=MaskFrame.GRID_SAMPLE)


def refine_masks(
    head: PointHead,
    features: Float[Array, "B H W D"],
    boxes: Float[Array, "B F 4"],
    labels: Int[Array, "B F"],
    coarse: Float[Array, "BF S S C"],
) -> Float[Array, "BF side side"]:
    """Double the coarse masks of the boxes' classes step by step, and predict uncertain points.

    Only one image's points are in memory at a time: at the defaults with 100 boxes, each layer has
    an input of 105 MB.
    """
    config, (layers, variables) = head.config, head.unbind()

    def one_image(image: tuple[Array, Array, Array, Array]) -> Float[Array, "F side side"]:
        features, boxes, labels, coarse = image

        def predict(points: Float[Array, "F P 2"]) -> Float[Array, "F P"]:
            fine = fine_features(features[None], boxes[None], points[None])[0]
            at_points = jax.vmap(ops.point_sample)(coarse, points)
            return layers.apply(variables, fine, at_points, labels)

        logits = jnp.take_along_axis(coarse, labels[:, None, None, None], axis=-1)
        for step in range(1, config.subdivision_steps + 1):
            extent = jnp.broadcast_to(jnp.asarray(logits.shape[1:3]), (len(boxes), 2))
            logits = upsample2x(logits, extent)  # [F, side, side, 1]
            if not config.is_refined(step, logits.shape[1]):
                continue
            choose = jax.vmap(lambda x: ops.uncertain_cells(x, config.subdivision_num_points))
            index, points = choose(logits[..., 0])
            flat = logits.reshape(len(boxes), -1)
            replace = jax.vmap(lambda x, i, values: x.at[i].set(values, unique_indices=True))
            logits = replace(flat, index, predict(points)).reshape(logits.shape)
        return logits[..., 0]

    coarse = coarse.reshape(*boxes.shape[:2], *coarse.shape[1:])
    refined = jax.lax.map(one_image, (features, boxes, labels, coarse))
    return refined.reshape(-1, *refined.shape[2:])
