"""SOLOv2 (Wang et al. 2020, arXiv 2003.10152): instances by location, masks by dynamic kernels.

    images -> backbone -> FPN -> five grids -> a class and a kernel for each cell
                              -> one mask feature for the whole image
    kernel * mask feature -> a mask for each cell that holds an object -> Matrix NMS

There are no boxes and no RoIs: the cells around an object's centre of mass predict its class and a
kernel, and the convolution of the mask feature with the kernel is its mask.

Terms:
    grid  the S x S cells that a level of the pyramid is resized to, whatever its shape
    K     cells of all grids of an image, in the order (level, y, x)
    Q     candidates: the best (cell, class) pairs of an image, padded
    P     (cell, object) pairs of an image whose masks are learned, padded
    E     length of a kernel: channels of the mask feature times `kernel_size` squared
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxseg import losses, ops
from jaxseg.heads.dense_tower import ConvGN, DenseTower, tower_init
from jaxseg.heads.semantic_fpn import sum_levels
from jaxseg.model import Model
from jaxseg.nn.backbone import BackboneConfig
from jaxseg.nn.build import build_model
from jaxseg.nn.conv import Conv
from jaxseg.nn.fpn import FPN, Pyramid
from jaxseg.nn.norm import NormKind
from jaxseg.nn.padding import extent_mask, level_extent, round_up_size
from jaxseg.nn.pixels import ComputeDtype, PixelConfig, normalize
from jaxseg.nn.resize import append_coords, resize
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import (
    Average,
    Batch,
    Detections,
    ImageMasks,
    LossTerm,
    MaskFrame,
    TargetSpec,
)

MASK_STRIDE = 4
"""Stride of the mask feature, of the ground-truth masks and of the predicted ones."""

CLASS_PRIOR = 0.01
"""Initial probability of every class (Lin et al. 2017, arXiv 1708.02002, section 3.3)."""


@dataclasses.dataclass(frozen=True)
class SOLOv2Config:
    """Settings of a SOLOv2; the defaults are those of the paper and MMDetection (R50-FPN).

    `jaxseg.zoo` holds those of other codebases' published models.
    """

    num_classes: int = 80
    pixels: PixelConfig = PixelConfig()
    backbone: BackboneConfig = ResNetConfig()
    fpn_channels: int = 256
    fpn_norm: NormKind | None = None
    """Normalisation in the FPN; none in the paper, useful without pre-training."""
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    """Cells along each side of the image, for P2 to P6."""
    scale_ranges: tuple[tuple[float, float], ...] = (
        (1.0, 96.0),
        (48.0, 192.0),
        (96.0, 384.0),
        (192.0, 768.0),
        (384.0, 2048.0),
    )
    """The objects of each grid: least and largest root of the box's area, in pixels."""
    pos_scale: float = 0.2
    """Size of the region around a centre whose cells are positive, as a fraction of the box."""
    shared_cells: Literal["smallest", "last"] = "smallest"
    """The object that a positive cell takes its class from if it is in the region of several: the
    smallest, whatever their order, or the last of the annotations, as in MMDetection and in the
    authors' code. Each of them learns its mask there in either case."""
    num_head_convs: int = 4
    head_channels: int = 512
    mask_feat_channels: int = 128
    """Channels inside the mask feature's branch."""
    mask_out_channels: int = 256
    """Channels of the mask feature."""
    kernel_size: Literal[1, 3] = 1
    norm_groups: int = 32
    """Groups of the heads' group normalisation."""
    max_positives: int = 256
    """Most (cell, object) pairs of an image whose masks are learned; those near the objects'
    centres come first. The metric `positives_dropped` counts the pairs beyond them."""
    mask_loss_weight: float = 3.0
    score_threshold: float = 0.1
    pre_nms_topk: int = 500
    """Best (cell, class) pairs whose masks are computed; no other setting of the prediction grows
    its memory. The result is exact unless more pairs pass the score threshold."""
    min_mask_area: tuple[int, ...] = (8, 8, 16, 32, 32)
    """For each grid, masks of no more cells than this are dropped."""
    matrix_nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    matrix_nms_sigma: float = 2.0
    post_nms_score_threshold: float = 0.05
    """Least score after Matrix NMS."""
    detections_per_image: int = 100
    size_divisibility: int | tuple[int, int] = 32
    """Each image's size is rounded up to a multiple of this, as other codebases pad it (torchvision
    `size_divisible`, MMDetection `pad_size_divisor`); see `jaxseg.nn.padding`."""
    compute_dtype: ComputeDtype = "float32"

    def build(self) -> Model:
        """Return the model.

        Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of
        32 and of `size_divisibility`. `loss` returns the terms `class` and `mask` and the metric
        `positives_dropped`.
        """
        if not len(self.num_grids) == len(self.scale_ranges) == len(self.min_mask_area) == 5:
            raise ValueError(
                "num_grids, scale_ranges and min_mask_area need one value for each of P2 to P6"
            )
        return build_model(
            SOLOv2(self),
            self.backbone,
            TargetSpec(masks=ImageMasks(MASK_STRIDE), centers=True),
            self.size_divisibility,
            loss=_loss,
            predict=_predict,
        )


class SOLOv2Head(nn.Module):
    """The pyramid to class logits `[B, K, C]` and kernels `[B, K, E]`.

    All grids share two towers of convolutions; the kernels' tower reads coordinates (CoordConv).
    """

    config: SOLOv2Config

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> tuple[Float[Array, "B K _classes"], Float[Array, "B K E"]]:
        config = self.config
        tower = (config.num_head_convs, config.head_channels, config.norm_groups)
        class_tower = DenseTower(*tower, name="class_tower")
        kernel_tower = DenseTower(*tower, name="kernel_tower")
        dtype = next(iter(pyramid.values())).dtype
        prior = nn.initializers.constant(-math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))

        def output(channels: int, name: str, **bias: Any) -> nn.Conv:
            return Conv(
                channels, (3, 3), padding=1, kernel_init=tower_init, dtype=dtype, name=name, **bias
            )

        logit = output(config.num_classes, "logit", bias_init=prior)
        kernel = output(config.mask_out_channels * config.kernel_size**2, "kernel")
        logits, kernels = [], []
        levels = zip(*_resized_levels(pyramid, padded_size), config.num_grids, strict=True)
        for x, extent, grid in levels:
            x = append_coords(x, extent)
            x = resize(x, extent, jnp.full_like(extent, grid), (grid, grid))  # [B, S, S, D+2]
            mask = jnp.ones((*x.shape[:3], 1), bool)
            features = class_tower(x[..., :-2], mask)
            logits.append(logit(features).reshape(len(x), grid * grid, -1))
            kernels.append(kernel(kernel_tower(x, mask)).reshape(len(x), grid * grid, -1))
        float32 = jnp.float32
        return (
            jnp.concatenate(logits, 1).astype(float32),
            jnp.concatenate(kernels, 1).astype(float32),
        )


def _resized_levels(
    pyramid: Pyramid, padded_size: Int[Array, "B 2"]
) -> tuple[list[Array], list[Array]]:
    """Return P2 to P6 and their extents, the first resized to P3's and the last to P5's."""
    strides = sorted(pyramid)
    maps = [pyramid[stride] for stride in strides]
    extents = [level_extent(padded_size, stride) for stride in strides]
    for level, like in ((0, 1), (-1, -2)):
        shape = maps[like].shape[1], maps[like].shape[2]
        maps[level] = resize(maps[level], extents[level], extents[like], shape)
        extents[level] = extents[like]
    return maps, extents


class MaskFeatureHead(nn.Module):
    """P2 to P5 to one map at stride 4, `[B, h, w, channels]`.

    Convolutions and upsampling by two bring each level to that stride, then all are added; the
    coarsest one reads coordinates.
    """

    config: SOLOv2Config

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, padded_size: Int[Array, "B 2"]
    ) -> Float[Array, "B h w _channels"]:
        config = self.config
        strides = sorted(pyramid)[:4]
        levels = {stride: pyramid[stride] for stride in strides}
        coarsest = strides[-1]
        levels[coarsest] = append_coords(levels[coarsest], level_extent(padded_size, coarsest))
        total = sum_levels(
            levels, padded_size, channels=config.mask_feat_channels, norm_groups=config.norm_groups
        )
        mask = extent_mask(level_extent(padded_size, strides[0]), *total.shape[1:3])
        output = ConvGN(config.mask_out_channels, 1, config.norm_groups, name="output")
        return output(total, mask).astype(jnp.float32)


class SOLOv2(nn.Module):
    """The layers of SOLOv2; `_loss` and `_predict` combine them."""

    config: SOLOv2Config

    def setup(self) -> None:
        config = self.config
        self.backbone = config.backbone.build()
        self.fpn = FPN(config.fpn_channels, config.fpn_norm)
        self.head = SOLOv2Head(config)
        self.mask_feature_head = MaskFeatureHead(config)

    def __call__(
        self,
        images: Array,
        image_size: Int[Array, "B 2"],
        padded_size: Int[Array, "B 2"],
        train: bool,
    ) -> tuple[Float[Array, "B K C"], Float[Array, "B K E"], Float[Array, "B h w D"]]:
        """Compute class logits and kernels of all cells, and the mask feature at stride 4."""
        x = normalize(self.config.pixels, images, image_size, self.config.compute_dtype)
        pyramid = self.fpn(self.backbone(x, padded_size, train), padded_size, train)
        return *self.head(pyramid, padded_size), self.mask_feature_head(pyramid, padded_size)

    def init_layers(self, images: Array, image_size: Int[Array, "B 2"]) -> None:
        """Call every layer once, so that `init` makes all parameters."""
        self(images, image_size, image_size, train=False)


def mask_logits(
    feature: Float[Array, "h w D"], kernels: Float[Array, "Q E"]
) -> Float[Array, "Q h w"]:
    """Convolve one image's mask feature with each kernel, as one matrix product."""
    height, width, channels = feature.shape
    size = round((kernels.shape[1] / channels) ** 0.5)
    if size > 1:
        # Channels first within a patch, the order of the references' kernels.
        feature = jax.lax.conv_general_dilated_patches(
            feature[None], (size, size), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
    return (kernels @ feature.reshape(height * width, -1).T).reshape(-1, height, width)


def make_targets(
    config: SOLOv2Config, batch: Batch, padded_size: Int[Array, "B 2"]
) -> ops.GridTargets:
    """Assign the cells of each image to its objects.

    For cells that several objects share see `SOLOv2Config.shared_cells`. With "smallest", of two
    objects with boxes of the same area the cell belongs to the one with the higher label, then with
    the larger x, then y of the centre, so that the order of the objects does not matter.
    """
    if batch.centers is None:
        raise ValueError("SOLOv2 learns from the masks' centres: the batch must have `centers`")
    if config.shared_cells == "last":
        order = jnp.broadcast_to(jnp.arange(batch.labels.shape[1])[None], batch.labels.shape)
    else:
        side = batch.boxes[..., 2:] - batch.boxes[..., :2]
        area = side[..., 0] * side[..., 1]
        keys = (batch.centers[..., 1], batch.centers[..., 0], batch.labels, -area)
        order = jnp.lexsort(keys, axis=1)  # [B, N]

    def one_image(
        order: Array, boxes: Array, labels: Array, centers: Array, valid: Array, padded_size: Array
    ) -> ops.GridTargets:
        targets = ops.grid_targets(
            boxes[order],
            labels[order],
            centers[order],
            valid[order],
            padded_size,
            num_grids=config.num_grids,
            scale_ranges=config.scale_ranges,
            pos_scale=config.pos_scale,
            max_positives=config.max_positives,
        )
        return targets._replace(gt_index=order[targets.gt_index])

    return jax.vmap(one_image)(
        order, batch.boxes, batch.labels, batch.centers, batch.valid, padded_size
    )


def _loss(
    net: SOLOv2, batch: Batch, key: jax.Array
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    del key  # nothing is sampled
    padded_size = round_up_size(batch.image_size, net.config.size_divisibility)
    logits, kernels, feature = net(batch.images, batch.image_size, padded_size, train=True)
    return solo_losses(net.config, logits, kernels, feature, batch)


def solo_losses(
    config: SOLOv2Config,
    logits: Float[Array, "B K C"],
    kernels: Float[Array, "B K E"],
    feature: Float[Array, "B h w D"],
    batch: Batch,
) -> tuple[dict[str, LossTerm], dict[str, Average]]:
    """Compute focal loss over cells and classes, and Dice loss over (cell, object) pairs.

    Both are divided by the number of positive cells.
    """
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    targets = make_targets(config, batch, padded_size)
    positive = targets.positive[..., None]
    truth = positive & (targets.label[..., None] == jnp.arange(logits.shape[2])[None, None, :])
    class_loss = losses.sigmoid_focal_loss(logits, truth.astype(logits.dtype)).sum()
    inside = extent_mask(level_extent(padded_size, MASK_STRIDE), *feature.shape[1:3])[..., 0]

    # The masks of all pairs are the largest arrays: the backward pass computes them again.
    @jax.checkpoint
    def image_dice(
        kernels: Array, feature: Array, inside: Array, masks: Array, targets: ops.GridTargets
    ) -> Array:
        probability = nn.sigmoid(mask_logits(feature, kernels[targets.cell]))  # [P, h, w]
        truth = masks[targets.gt_index].astype(feature.dtype)
        dice = losses.dice_loss(jnp.where(inside[None], probability, 0), truth)
        return jnp.where(targets.valid, dice, 0).sum()

    dice = jax.vmap(image_dice)(kernels, feature, inside, batch.masks, targets).sum()
    learned = _count_cells(targets, logits.shape[1]).astype(logits.dtype)
    terms = {
        "class": LossTerm(class_loss, positive.sum().astype(logits.dtype), offset=1.0),
        "mask": LossTerm(dice, learned, config.mask_loss_weight),
    }
    dropped = targets.dropped.sum().astype(logits.dtype)
    images = jnp.asarray(len(logits), logits.dtype)
    return terms, {"positives_dropped": Average(dropped, images)}


def _count_cells(targets: ops.GridTargets, cells: int) -> Int[Array, ""]:
    """Count the cells of the learned pairs; one that two objects share counts once."""

    def one_image(cell: Array, valid: Array) -> Array:
        return jnp.zeros(cells, bool).at[cell].max(valid).sum()

    return jax.vmap(one_image)(targets.cell, targets.valid).sum()


def _predict(net: SOLOv2, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    logits, kernels, feature = net(images, image_size, padded_size, train=False)
    select = jax.vmap(lambda *image: select_instances(config, *image))
    boxes, scores, labels, valid, masks = select(logits, kernels, feature, image_size, padded_size)
    return Detections(boxes, scores, labels, valid, masks, MaskFrame.IMAGE)


def select_instances(
    config: SOLOv2Config,
    logits: Float[Array, "K C"],
    kernels: Float[Array, "K E"],
    feature: Float[Array, "h w D"],
    image_size: Int[Array, " 2"],
    padded_size: Int[Array, " 2"],
) -> tuple[Array, Array, Array, Array, Array]:
    """Select one image's instances, best first: boxes, scores, labels, `valid` and masks.

    Masks are probabilities at stride 4; border cells are repeated into the padding, so upsampling
    never reads it.
    """
    scores = _points_nms(config, nn.sigmoid(logits)).reshape(-1)  # [K C]
    top, pair = jax.lax.top_k(scores, min(config.pre_nms_topk, scores.shape[0]))  # [Q]
    cell, label = pair // logits.shape[1], pair % logits.shape[1]

    extent = level_extent(padded_size, MASK_STRIDE)
    inside = extent_mask(extent[None], *feature.shape[:2])[..., 0]
    probability = nn.sigmoid(mask_logits(feature, kernels[cell]))
    probability = jnp.where(inside, probability, 0)  # [Q, h, w]
    binary = probability > 0.5
    area = binary.sum((1, 2))
    cells_per_grid = [grid * grid for grid in config.num_grids]
    min_area = jnp.asarray(np.repeat(config.min_mask_area, cells_per_grid))  # [K]
    usable = (top > config.score_threshold) & (area > min_area[cell])
    inside_sum = jnp.where(binary, probability, 0).sum((1, 2))
    maskness = inside_sum / jnp.maximum(area, 1).astype(probability.dtype)
    decayed = ops.matrix_nms(
        binary,
        label,
        top * maskness,
        kernel=config.matrix_nms_kernel,
        sigma=config.matrix_nms_sigma,
        valid=usable,
    )
    kept = jnp.where(usable & (decayed >= config.post_nms_score_threshold), decayed, 0)
    missing = max(config.detections_per_image - kept.shape[0], 0)
    best, index = jax.lax.top_k(jnp.pad(kept, (0, missing)), config.detections_per_image)  # [D]
    valid = best > 0
    index = jnp.where(valid, index, 0)
    boxes = ops.boxes_from_masks(binary[index], image_size, stride=MASK_STRIDE)
    rows = jnp.minimum(jnp.arange(feature.shape[0]), extent[0] - 1)
    columns = jnp.minimum(jnp.arange(feature.shape[1]), extent[1] - 1)
    masks = probability[index][:, rows][:, :, columns]
    return (
        jnp.where(valid[:, None], boxes, 0),
        best,
        jnp.where(valid, label[index], 0),
        valid,
        jnp.where(valid[:, None, None], masks, 0),
    )


def _points_nms(config: SOLOv2Config, scores: Float[Array, "K C"]) -> Float[Array, "K C"]:
    """Apply points NMS within each grid."""
    kept, first = [], 0
    for grid in config.num_grids:
        cells = scores[first : first + grid * grid].reshape(grid, grid, -1)
        kept.append(ops.points_nms(cells).reshape(grid * grid, -1))
        first += grid * grid
    return jnp.concatenate(kept)
