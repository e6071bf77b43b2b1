"""SOLOv2 (Wang et al. 2020, arXiv 2003.10152): instances by location, masks by dynamic kernels.

    images -> ResNet -> FPN -> five grids -> a class and a kernel for each cell
                            -> one mask feature for the whole image
    kernel * mask feature -> a mask for each cell that holds an object -> Matrix NMS

The layers are in `solo_head`. There are no boxes and no RoIs: a cell whose object's centre of mass
it holds learns that object's class and a kernel that draws its mask.

Terms:
    K     cells of all grids of an image, in the order (level, y, x)
    Q     candidates: the best (cell, class) pairs of an image, padded
    P     (cell, object) pairs of an image whose masks are learned, padded
    E     numbers of a kernel: channels of the mask feature times its `kernel_size` squared
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxseg import losses, ops
from jaxseg.model import Model
from jaxseg.models.solo_head import MaskFeatureHead, SOLOv2Head
from jaxseg.nn.build import build_model
from jaxseg.nn.fpn import FPN, Pyramid
from jaxseg.nn.norm import NormKind
from jaxseg.nn.padding import extent_mask, level_extent, round_up_size
from jaxseg.nn.pixels import ComputeDtype, PixelConfig, normalize
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.types import Batch, Detections, LossTerm, MaskFrame, MaskSpec

MASK_STRIDE = 4
"""Of the mask feature, of the masks that are learned and of those that are found."""


@dataclasses.dataclass(frozen=True)
class SOLOv2Config:
    """A SOLOv2's choices; the defaults are R50-FPN on COCO, as the paper and MMDetection train it.

    `jaxseg.zoo.published` holds those of other codebases' published models.
    """

    num_classes: int = 80
    pixels: PixelConfig = PixelConfig()
    backbone: ResNetConfig = ResNetConfig()
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
    """Size of the region around a centre whose cells are positive, in parts of the box."""
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
    centres come first. The metric `pairs_dropped` says how many an image has beyond them."""
    mask_loss_weight: float = 3.0
    score_threshold: float = 0.1
    pre_nms_topk: int = 500
    """Best (cell, class) pairs whose masks are made: memory grows with it and with nothing else.
    Exact unless more of them pass the score threshold."""
    min_mask_area: tuple[int, ...] = (8, 8, 16, 32, 32)
    """For each grid, masks of no more cells than this are dropped."""
    matrix_nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    matrix_nms_sigma: float = 2.0
    post_nms_score_threshold: float = 0.05
    """Least score after Matrix NMS."""
    detections_per_image: int = 100
    size_divisibility: int | tuple[int, int] = 32
    """The padding up to a multiple of this counts as image, as in the references."""
    compute_dtype: ComputeDtype = "float32"

    def build(self) -> Model:
        return solov2(self)


def solov2(config: SOLOv2Config) -> Model:
    """SOLOv2 as a `jaxseg.model.Model`.

    Images are `[B, H, W, 3]` RGB, uint8 or float32 from 0 to 255, with H and W multiples of 32.
    `loss` returns the terms `class`, `mask` and, to look at, `pairs_dropped`.
    """
    if not len(config.num_grids) == len(config.scale_ranges) == len(config.min_mask_area) == 5:
        raise ValueError("grids, scale_ranges and min_cells need one value for each of P2 to P6")
    needs = MaskSpec(MaskFrame.IMAGE, MASK_STRIDE, centers=True)
    return build_model(
        SOLOv2(config),
        config.backbone,
        needs,
        config.size_divisibility,
        loss=_loss,
        predict=_predict,
    )


class SOLOv2(nn.Module):
    """The layers; how they are used in training and prediction is in the functions below."""

    config: SOLOv2Config

    def setup(self) -> None:
        config = self.config
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(config.fpn_channels, config.fpn_norm)
        self.grid_head = SOLOv2Head(
            config.num_classes,
            config.mask_out_channels * config.kernel_size**2,
            config.num_grids,
            config.num_head_convs,
            config.head_channels,
            config.norm_groups,
        )
        self.mask_feature = MaskFeatureHead(
            config.mask_feat_channels, config.mask_out_channels, config.norm_groups
        )

    def __call__(
        self,
        images: Array,
        image_size: Int[Array, "B 2"],
        padded_size: Int[Array, "B 2"],
        train: bool,
    ) -> tuple[Float[Array, "B K C"], Float[Array, "B K E"], Float[Array, "B h w D"]]:
        """Images to class logits and kernels of all cells, and the mask feature at stride 4."""
        x = normalize(self.config.pixels, images, image_size, self.config.compute_dtype)
        pyramid: Pyramid = self.fpn(self.backbone(x, padded_size, train), padded_size, train)
        return *self.grid_head(pyramid, padded_size), self.mask_feature(pyramid, padded_size)

    def init_layers(self, images: Array, image_size: Int[Array, "B 2"]) -> None:
        """Runs every layer once, so that `init` makes all parameters."""
        self(images, image_size, image_size, train=False)


def mask_logits(
    feature: Float[Array, "h w D"], kernels: Float[Array, "Q E"]
) -> Float[Array, "Q h w"]:
    """Dynamic convolution of one image: one matrix product of its kernels and its feature."""
    height, width, channels = feature.shape
    size = round((kernels.shape[1] / channels) ** 0.5)
    if size > 1:
        # Channels first within a patch, as the references lay their kernels out.
        feature = jax.lax.conv_general_dilated_patches(
            feature[None], (size, size), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
    return (kernels @ feature.reshape(height * width, -1).T).reshape(-1, height, width)


def make_targets(
    config: SOLOv2Config, batch: Batch, padded_size: Int[Array, "B 2"]
) -> ops.GridTargets:
    """The cells of each image, in an order of objects that is the same for any order given:
    where two share a cell, the smaller one has it (of two as large, one by label and place)."""
    if batch.centers is None:
        raise ValueError("SOLOv2 learns from the masks' centres: the batch must have `centers`")
    side = batch.boxes[..., 2:] - batch.boxes[..., :2]
    area = side[..., 0] * side[..., 1]
    keys = (batch.centers[..., 1], batch.centers[..., 0], batch.labels, -area)
    order = jnp.lexsort(keys, axis=1)

    def one_image(
        order: Array, boxes: Array, labels: Array, centers: Array, valid: Array, padded_size: Array
    ) -> ops.GridTargets:
        targets = ops.grid_targets(
            boxes[order],
            labels[order],
            centers[order],
            valid[order],
            padded_size,
            grids=config.num_grids,
            scale_ranges=config.scale_ranges,
            sigma=config.pos_scale,
            pairs=config.max_positives,
        )
        return targets._replace(gt_index=order[targets.gt_index])

    return jax.vmap(one_image)(
        order, batch.boxes, batch.labels, batch.centers, batch.valid, padded_size
    )


def _loss(net: Any, batch: Batch, key: jax.Array) -> dict[str, LossTerm]:
    del key  # nothing is sampled
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    logits, kernels, feature = net(batch.images, batch.image_size, padded_size, train=True)
    return solo_losses(config, logits, kernels, feature, batch)


def solo_losses(
    config: SOLOv2Config,
    logits: Float[Array, "B K C"],
    kernels: Float[Array, "B K E"],
    feature: Float[Array, "B h w D"],
    batch: Batch,
) -> dict[str, LossTerm]:
    """Focal loss of every cell and class, Dice loss of every pair, both over positive cells."""
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    targets = make_targets(config, batch, padded_size)
    positive = targets.positive[..., None]
    truth = positive & (targets.label[..., None] == jnp.arange(logits.shape[2])[None, None, :])
    class_loss = losses.sigmoid_focal_loss(logits, truth.astype(logits.dtype)).sum()
    inside = extent_mask(level_extent(padded_size, MASK_STRIDE), *feature.shape[1:3])[..., 0]

    @jax.checkpoint
    def dice_of_image(
        kernels: Array, feature: Array, inside: Array, masks: Array, targets: ops.GridTargets
    ) -> Array:
        probability = nn.sigmoid(mask_logits(feature, kernels[targets.cell]))
        dice = losses.dice_loss(
            probability * inside[None], masks[targets.gt_index].astype(feature.dtype)
        )
        return jnp.where(targets.valid, dice, 0).sum()

    dice = jax.vmap(dice_of_image)(kernels, feature, inside, batch.masks, targets).sum()
    learned = _count_cells(targets, logits.shape[1]).astype(logits.dtype)
    return {
        "class": LossTerm(class_loss, positive.sum().astype(logits.dtype), offset=1.0),
        "mask": LossTerm(dice, learned, config.mask_loss_weight),
        "pairs_dropped": LossTerm(
            targets.dropped.sum().astype(logits.dtype),
            jnp.asarray(len(logits), logits.dtype),
            scale=0.0,
        ),
    }


def _count_cells(targets: ops.GridTargets, cells: int) -> Int[Array, ""]:
    """How many cells the pairs stand for: one that two objects share counts once."""

    def one_image(cell: Array, valid: Array) -> Array:
        return jnp.zeros(cells, bool).at[cell].max(valid).sum()

    return jax.vmap(one_image)(targets.cell, targets.valid).sum()


def _predict(net: Any, images: jax.Array, image_size: jax.Array) -> Detections:
    config = net.config
    padded_size = round_up_size(image_size, config.size_divisibility)
    logits, kernels, feature = net(images, image_size, padded_size, train=False)
    select = jax.vmap(lambda *image: select_instances(config, *image))
    return Detections(*select(logits, kernels, feature, image_size, padded_size), MaskFrame.IMAGE)


def select_instances(
    config: SOLOv2Config,
    logits: Float[Array, "K C"],
    kernels: Float[Array, "K E"],
    feature: Float[Array, "h w D"],
    image_size: Int[Array, " 2"],
    padded_size: Int[Array, " 2"],
) -> tuple[Array, Array, Array, Array, Array]:
    """Boxes, scores, labels, masks and `valid` of one image's instances, best first.

    Masks are probabilities at stride 4; beyond the canvas its last cells come again, so that
    they can be enlarged as if there were nothing else.
    """
    classes, scores = logits.shape[1], _suppress_neighbours(config, nn.sigmoid(logits)).reshape(-1)
    top, pair = jax.lax.top_k(scores, min(config.pre_nms_topk, scores.shape[0]))
    cell, label = pair // classes, pair % classes

    extent = level_extent(padded_size, MASK_STRIDE)
    inside = extent_mask(extent[None], *feature.shape[:2])[..., 0]
    probability = nn.sigmoid(mask_logits(feature, kernels[cell])) * inside
    binary = probability > 0.5
    area = binary.sum((1, 2))
    floor = jnp.asarray(np.repeat(config.min_mask_area, [grid * grid for grid in config.num_grids]))
    usable = (top > config.score_threshold) & (area > floor[cell])
    maskness = (probability * binary).sum((1, 2)) / jnp.maximum(area, 1)
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
    best, index = jax.lax.top_k(jnp.pad(kept, (0, missing)), config.detections_per_image)
    valid = best > 0
    index = jnp.where(valid, index, 0)
    boxes = _boxes_of_masks(binary[index], image_size)
    rows = jnp.minimum(jnp.arange(feature.shape[0]), extent[0] - 1)
    columns = jnp.minimum(jnp.arange(feature.shape[1]), extent[1] - 1)
    masks = probability[index][:, rows][:, :, columns]
    return (
        jnp.where(valid[:, None], boxes, 0),
        best,
        jnp.where(valid, label[index], 0),
        jnp.where(valid[:, None, None], masks, 0),
        valid,
    )


def _suppress_neighbours(config: SOLOv2Config, scores: Float[Array, "K C"]) -> Float[Array, "K C"]:
    """Points NMS within each grid."""
    kept, first = [], 0
    for grid in config.num_grids:
        cells = scores[first : first + grid * grid].reshape(grid, grid, -1)
        kept.append(ops.points_nms(cells).reshape(grid * grid, -1))
        first += grid * grid
    return jnp.concatenate(kept)


def _boxes_of_masks(masks: Array, image_size: Int[Array, " 2"]) -> Float[Array, "D 4"]:
    """The tight box of each mask, as exact as the stride allows, within the image."""

    def span(hit: Array, size: Array) -> tuple[Array, Array]:
        first = hit.argmax(1) * MASK_STRIDE
        last = (hit.shape[1] - hit[:, ::-1].argmax(1)) * MASK_STRIDE
        return jnp.minimum(first, size), jnp.minimum(last, size)

    y1, y2 = span(masks.any(2), image_size[0])
    x1, x2 = span(masks.any(1), image_size[1])
    boxes = jnp.stack([x1, y1, x2, y2], axis=1).astype(jnp.float32)
    return jnp.where(masks.any((1, 2))[:, None], boxes, 0)
