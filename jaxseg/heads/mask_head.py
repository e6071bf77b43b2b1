"""The mask head of Mask R-CNN (He et al. 2017, arXiv 1703.06870, section 3 and figure 4 right).

Terms:
    R     RoI slots, of all images together
    F     the first RoI slots of an image, as many as there may be positives
    S     side of the head's output, twice its pooled size (28 in the paper)
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg import losses, ops
from jaxseg.heads.conv_stack import conv_stack
from jaxseg.heads.roi_sampling import RoIs
from jaxseg.model import Variables
from jaxseg.nn.activation import relu
from jaxseg.nn.norm import NormKind
from jaxseg.nn.resnet import he_normal
from jaxseg.nn.used_rows import sum_over_used
from jaxseg.types import Batch, BoxCrops, ImageMasks, LossTerm

ROUNDING = 1e-4
"""Margin below one half within which a soft target still counts as half covered. Where a RoI is
the object's own box, as one of its proposals always is, cells that are exactly half covered are
common, and rounding, which differs between batch sizes, must not decide them."""


MaskTargets = Literal["box_crop", "binary", "soft"]
"""Kinds of ground truth: see `MaskHeadConfig.mask_targets`."""


@dataclasses.dataclass(frozen=True)
class MaskHeadConfig:
    """Settings of a mask head: four 3x3 convolutions, one transposed, then one mask per class."""

    num_convs: int = 4
    conv_dim: int = 256
    pooler_resolution: int = 14
    cls_agnostic_mask: bool = False
    """One mask for all classes instead of one for each."""
    logit_init_std: float | None = 0.001
    """Standard deviation of the logits' initial weights, as in Detectron2; None initialises them
    like the other layers, as torchvision and MMDetection do."""
    mask_targets: MaskTargets = "box_crop"
    """The target in a RoI. `box_crop`: the mask cropped to its object's box at `gt_mask_size`, the
    only one that is light enough for long trainings. `binary`: the mask of the whole image, pooled
    and thresholded as in Detectron2 and MMDetection. `soft`: pooled and not thresholded, as in
    torchvision."""
    gt_mask_size: int = 112
    """Side of the ground-truth masks that are cropped to their boxes."""
    paste: Literal["grid_sample", "integer"] = "grid_sample"
    """How predicted masks are pasted: see `jaxseg.types.MaskFrame`; `integer` is torchvision's."""

    @property
    def gt_masks(self) -> BoxCrops | ImageMasks:
        """Return the ground-truth masks that the targets are made from."""
        if self.mask_targets == "box_crop":
            return BoxCrops(self.gt_mask_size)
        return ImageMasks(stride=1)


class ClassLogit(nn.Module):
    """The last layer, for the class of each RoI alone: features of pixels to logits.

    It has the parameters of a dense layer with a column for each output. The logits of the other
    classes are never used, neither in a loss nor in a prediction.
    """

    outputs: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "R *pixels D"], labels: Int[Array, " R"]
    ) -> Float[Array, " R *pixels"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (channels, self.outputs)).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,)).astype(x.dtype)
        logits = jnp.einsum("rpd,rd->rp", x.reshape(len(x), -1, channels), kernel.T[labels])
        return (logits + bias[labels][:, None]).reshape(x.shape[:-1])


class MaskHead(nn.Module):
    """Pooled features `[R, p, p, D]` to the mask logits of each RoI's class `[R, 2p, 2p]`."""

    config: MaskHeadConfig
    outputs: int
    norm: NormKind | None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "R p p D"],
        valid: Bool[Array, " R"],
        labels: Int[Array, " R"],
        train: bool,
    ) -> Float[Array, "R S S"]:
        return self.upsampled_logits(self.features(x, valid, train), labels)

    def features(
        self, x: Float[Array, "R p p _"], valid: Bool[Array, " R"], train: bool
    ) -> Float[Array, "R p p _"]:
        """Apply the convolutions before the upsampling. Call it in a compact method."""
        return conv_stack(
            x,
            valid,
            num_convs=self.config.num_convs,
            channels=self.config.conv_dim,
            norm=self.norm,
            train=train,
        )

    def upsampled_logits(
        self, x: Float[Array, "R p p D"], labels: Int[Array, " R"]
    ) -> Float[Array, "R S S"]:
        """Return the logits of each RoI's class. Call it in a compact method."""
        config, channels = self.config, self.config.conv_dim
        # A transposed 2x2 convolution with stride 2 multiplies each cell by a matrix for each of
        # its four pixels. One product does all four, several times as fast on a CPU. The pixels
        # are rearranged last, when they hold few channels.
        count, height, width, _ = x.shape
        upsample = nn.Dense(
            4 * channels, use_bias=False, kernel_init=he_normal, dtype=x.dtype, name="upsample"
        )
        x = upsample(x)  # [R, p, p, 4 D]
        bias = self.param("upsample_bias", nn.initializers.zeros, (channels,))
        bias = bias.astype(x.dtype)[None, None, None, None, None]
        x = x.reshape(count, height, width, 2, 2, channels) + bias  # [R, y, x, dy, dx, D]
        std = config.logit_init_std
        logit_init = he_normal if std is None else nn.initializers.normal(std)
        output = jnp.zeros_like(labels) if config.cls_agnostic_mask else labels
        x = ClassLogit(self.outputs, logit_init, name="logit")(relu(x), output)
        x = x.astype(jnp.float32).transpose(0, 1, 3, 2, 4)  # [R, y, dy, x, dx]
        return x.reshape(count, 2 * height, 2 * width)


class MaskSamples(NamedTuple):
    """What the mask head learns from in each RoI slot, all images on one axis."""

    targets: Float[Array, "R S S"]
    labels: Int[Array, " R"]
    positive: Bool[Array, " R"]


def mask_samples(config: MaskHeadConfig, rois: RoIs, batch: Batch) -> MaskSamples:
    """Return each RoI's target mask and class."""
    labels = jax.vmap(lambda values, index: values[index])(batch.labels, rois.gt_index)
    targets = mask_targets(config.mask_targets, rois, batch, 2 * config.pooler_resolution)
    return MaskSamples(targets, labels.reshape(-1), rois.positive.reshape(-1))


def mask_loss(
    head: nn.Module,
    pooled: Float[Array, "R p p D"],
    samples: MaskSamples,
    **settings: Any,
) -> LossTerm:
    """Compute binary cross-entropy on the true class's mask, averaged over each RoI's pixels.

    Slots without a positive RoI are not computed where that saves time (`nn.used_rows`).
    `head` is called as a `MaskHead` is; `settings` are further arguments of its own, no arrays.
    """
    if head.norm == "sync_batch":  # its statistics are those of all RoIs of the global batch
        logits = head(pooled, samples.positive, samples.labels, train=True, **settings)
        total = mask_loss_total(logits, samples)
    else:
        layers, variables = head.unbind()
        loss = functools.partial(_head_and_loss, layers, settings)
        total = sum_over_used(loss, variables, pooled, samples, samples.positive)
    return LossTerm(total, samples.positive.sum().astype(total.dtype))


def _head_and_loss(
    layers: nn.Module,
    settings: dict[str, Any],
    variables: Variables,
    pooled: Array,
    samples: MaskSamples,
) -> Float[Array, ""]:
    arguments = pooled, samples.positive, samples.labels
    logits = layers.apply(variables, *arguments, train=True, **settings)
    return mask_loss_total(logits, samples)


def mask_loss_total(logits: Float[Array, "R S S"], samples: MaskSamples) -> Float[Array, ""]:
    """Return the sum of the positive RoIs' losses."""
    loss = losses.sigmoid_cross_entropy(logits, samples.targets.astype(logits.dtype))
    return jnp.where(samples.positive, loss.mean((1, 2)), 0).sum()


def mask_targets(kind: MaskTargets, rois: RoIs, batch: Batch, size: int) -> Float[Array, "BF S S"]:
    """Compute each RoI's target mask, in [0, 1]. Raises ValueError if the batch has no masks."""
    if batch.masks is None:
        raise ValueError("the mask head's targets are made of masks: the batch must have `masks`")

    def one_image(
        masks: Array, gt_boxes: Array, image_size: Array, boxes: Array, gt_index: Array
    ) -> Array:
        if kind == "box_crop":
            return ops.mask_targets(masks, gt_boxes, boxes, gt_index, size=size)
        aligned = kind == "binary"
        return ops.bitmap_targets(masks, boxes, gt_index, image_size, size=size, aligned=aligned)

    targets = jax.vmap(one_image)(
        batch.masks, batch.boxes, batch.image_size, rois.boxes, rois.gt_index
    )
    targets = targets.reshape(-1, size, size)
    if kind == "soft":
        return targets
    return (targets >= 0.5 - ROUNDING).astype(targets.dtype)


def detection_masks(
    logits: Float[Array, "BD S S"], valid: Bool[Array, "B D"]
) -> Float[Array, "B D S S"]:
    """Return the probability masks of each image's detections; zeros in unused slots."""
    masks = nn.sigmoid(logits).reshape(*valid.shape, *logits.shape[1:])
    return jnp.where(valid[..., None, None], masks, 0)
