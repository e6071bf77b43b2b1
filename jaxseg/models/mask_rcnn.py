"""Mask R-CNN with FPN (He et al. 2017, arXiv 1703.06870; Lin et al. 2017, arXiv 1612.03144).

    images -> ResNet -> FPN -> RPN -> proposals -> RoIAlign -> box head -> boxes, classes
                                                -> RoIAlign -> mask head -> a mask each

Terms:
    RoI       a box whose features are pooled: a proposal in training, a detection for masks
    R         RoI slots of an image, padded; those of positives come first
    F         the first slots of R, enough for the most positives there may be
    S         side of the mask head's output, twice its pooled size (28 in the paper)
    class C   the last of the C + 1 class logits stands for "background"
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxseg import losses, ops
from jaxseg.model import Model, Variables, image_shape
from jaxseg.models import rpn
from jaxseg.models.rpn import Proposals, RPNConfig
from jaxseg.nn.fpn import FPN, Pyramid
from jaxseg.nn.norm import NormKind, make_norm
from jaxseg.nn.padding import canvas_size, level_extent
from jaxseg.nn.resnet import ResNet, ResNetConfig, he_normal, normalize
from jaxseg.types import Batch, Detections, LossTerm, MaskFrame, MaskSpec


@dataclasses.dataclass(frozen=True)
class BoxHeadConfig:
    """Two fully connected layers (Lin et al. 2017, section 5.2)."""

    hidden: int = 1024
    pool_size: int = 7
    samples: int = 512
    """RoIs sampled per image in training."""
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: float = 1 / 9
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    nms_candidates: int = 2000
    """Best (box, class) pairs that NMS sees; it is exact unless these keep fewer than
    `detections` while more pairs pass the score threshold."""
    detections: int = 100


@dataclasses.dataclass(frozen=True)
class MaskHeadConfig:
    """Four 3x3 convolutions and one transposed (He et al. 2017, figure 4 right)."""

    convs: int = 4
    channels: int = 256
    pool_size: int = 14


@dataclasses.dataclass(frozen=True)
class MaskRCNNConfig:
    """A Mask R-CNN's choices; the defaults are the paper's R50-FPN on COCO."""

    num_classes: int = 80
    backbone: ResNetConfig = ResNetConfig()
    fpn_channels: int = 256
    head_norm: NormKind | None = None
    """Normalisation in FPN and mask head; none in the paper, useful without pre-training."""
    rpn: RPNConfig = RPNConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    mask: MaskHeadConfig = MaskHeadConfig()
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    gt_mask_size: int = 112
    """Side of the ground-truth masks, cropped to their boxes."""
    canvas_multiple: int = 32
    """The padding up to a multiple of this counts as image, as in the references."""

    def build(self) -> Model:
        return mask_rcnn(self)


def mask_rcnn(config: MaskRCNNConfig) -> Model:
    """Mask R-CNN as a `jaxseg.model.Model`.

    Images are uint8 `[B, H, W, 3]` with H and W multiples of 32. `loss` returns the terms
    `rpn_class`, `rpn_box`, `box_class`, `box` and `mask`.
    """
    net = MaskRCNN(config)

    def init(key: jax.Array, batch_or_shape: Batch | tuple[int, ...]) -> Variables:
        _, height, width, _ = image_shape(batch_or_shape)
        _check_shape(height, width)
        images = jnp.zeros((1, height, width, 3), jnp.uint8)
        size = jnp.asarray([[height, width]], jnp.int32)
        return net.init(key, images, size, method=MaskRCNN.touch_everything)

    def loss(
        variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[dict[str, LossTerm], Variables]:
        _check_shape(*batch.images.shape[1:3])
        return nn.apply(_loss, net, mutable=["batch_stats"])(variables, batch, key)

    def predict(variables: Variables, images: jax.Array, image_size: jax.Array) -> Detections:
        _check_shape(*images.shape[1:3])
        return nn.apply(_predict, net)(variables, images, image_size)

    return Model(init, loss, predict, MaskSpec(MaskFrame.BOX, config.gt_mask_size))


def _check_shape(height: int, width: int) -> None:
    if height % 32 or width % 32:
        raise ValueError(
            f"images are padded to {height}x{width}; Mask R-CNN needs multiples of 32: "
            "choose such a canvas"
        )


class BoxHead(nn.Module):
    """Pooled features `[R, p, p, C]` to class logits `[R, C+1]` and deltas `[R, C, 4]`."""

    config: BoxHeadConfig
    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "R p p D"]
    ) -> tuple[Float[Array, "R _C"], Float[Array, "R C 4"]]:
        init = nn.initializers.xavier_uniform()
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(self.config.hidden, kernel_init=init, name="hidden1")(x))
        x = nn.relu(nn.Dense(self.config.hidden, kernel_init=init, name="hidden2")(x))
        logits = nn.Dense(
            self.num_classes + 1, kernel_init=nn.initializers.normal(0.01), name="logit"
        )(x)
        deltas = nn.Dense(
            4 * self.num_classes, kernel_init=nn.initializers.normal(0.001), name="delta"
        )(x)
        return logits, deltas.reshape(-1, self.num_classes, 4)


class MaskHead(nn.Module):
    """Pooled features `[R, p, p, C]` to one mask's logits for each class `[R, 2p, 2p, C]`."""

    config: MaskHeadConfig
    num_classes: int
    norm: NormKind | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "R p p D"], valid: Bool[Array, " R"], train: bool
    ) -> Float[Array, "R S S C"]:
        channels = self.config.channels
        mask = valid[:, None, None, None] & jnp.ones((1, *x.shape[1:3], 1), bool)
        for number in range(1, self.config.convs + 1):
            x = nn.Conv(
                channels,
                (3, 3),
                padding=1,
                use_bias=self.norm is None,
                kernel_init=he_normal,
                name=f"conv{number}",
            )(x)
            if self.norm is not None:
                x = make_norm(self.norm, name=f"norm{number}")(x, mask, train)
            x = nn.relu(x)
        # A transposed 2x2 convolution with stride 2 gives each cell's four pixels a matrix of
        # their own: one product, several times as fast on a CPU. The pixels move to their
        # places last, when they hold few channels.
        count, height, width, _ = x.shape
        x = nn.Dense(4 * channels, use_bias=False, kernel_init=he_normal, name="upsample")(x)
        bias = self.param("upsample_bias", nn.initializers.zeros, (channels,))
        x = x.reshape(count, height, width, 2, 2, channels) + bias[None, None, None, None, None]
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.001), name="logit")(
            nn.relu(x)
        )
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(count, 2 * height, 2 * width, self.num_classes)


class MaskRCNN(nn.Module):
    """The layers; how they are used in training and prediction is in the functions below."""

    config: MaskRCNNConfig

    def setup(self) -> None:
        config = self.config
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(config.fpn_channels, config.head_norm)
        self.rpn_head = rpn.RPNHead(len(config.rpn.aspect_ratios))
        self.box_head = BoxHead(config.box, config.num_classes)
        self.mask_head = MaskHead(config.mask, config.num_classes, config.head_norm)

    def features(
        self, images: Array, image_size: Int[Array, "B 2"], canvas: Int[Array, "B 2"], train: bool
    ) -> Pyramid:
        """uint8 images to P2 to P6."""
        x = normalize(images, image_size, self.config.pixel_mean, self.config.pixel_std)
        return self.fpn(self.backbone(x, canvas, train), canvas, train)

    def touch_everything(self, images: Array, image_size: Int[Array, "B 2"]) -> None:
        """Runs every layer once, so that `init` makes all parameters."""
        pyramid = self.features(images, image_size, image_size, train=False)
        self.rpn_head(pyramid)
        channels = self.config.fpn_channels
        box, mask = self.config.box.pool_size, self.config.mask.pool_size
        self.box_head(jnp.zeros((1, box, box, channels)))
        self.mask_head(jnp.zeros((1, mask, mask, channels)), jnp.ones((1,), bool), train=False)


def pool(
    pyramid: Pyramid, boxes: Float[Array, "B R 4"], canvas: Int[Array, "B 2"], size: int
) -> Float[Array, "BR p p C"]:
    """RoIAlign from the level that fits each box, all images' RoIs in one axis."""
    levels = {stride: x for stride, x in pyramid.items() if stride <= 32}
    extent = {stride: level_extent(canvas, stride) for stride in levels}

    def one_image(levels: dict[int, Array], boxes: Array, extent: dict[int, Array]) -> Array:
        return ops.multilevel_roi_align(levels, boxes, output_size=(size, size), extent=extent)

    pooled = jax.vmap(one_image)(levels, boxes, extent)
    return pooled.reshape(-1, *pooled.shape[2:])


class RoIs(NamedTuple):
    """RoIs sampled for training, the positives first."""

    boxes: Float[Array, "*B R 4"]
    valid: Bool[Array, "*B R"]
    positive: Bool[Array, "*B R"]
    gt: Int[Array, "*B R"]  # the object that a positive RoI is matched with


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
            low_quality=False,
            anchor_valid=jnp.concatenate([proposals.valid, valid]),
        )
        ids = jnp.concatenate([jnp.arange(len(proposals.boxes)), _GT_IDS + jnp.arange(gt.shape[0])])
        sample = ops.sample_balanced(
            ops.priorities(key, ids),
            matches.positive,
            matches.negative,
            size=config.samples,
            positive_fraction=config.positive_fraction,
        )
        rois = jnp.where(sample.valid[:, None], boxes[sample.chosen], 0)
        return RoIs(rois, sample.valid, sample.positive, matches.gt[sample.chosen])

    return jax.vmap(one_image)(proposals, batch.boxes, batch.valid, keys)


def _loss(net: MaskRCNN, batch: Batch, key: jax.Array) -> dict[str, LossTerm]:
    config = net.config
    canvas = canvas_size(batch.image_size, config.canvas_multiple)
    image_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.place)
    rpn_keys, roi_keys = jax.vmap(jax.random.split, out_axes=1)(image_keys)

    pyramid = net.features(batch.images, batch.image_size, canvas, train=True)
    output = net.rpn_head(pyramid)
    anchors = rpn.make_anchors(config.rpn, pyramid, canvas)
    terms = rpn.rpn_losses(config.rpn, output, anchors, batch, rpn_keys)

    proposals = rpn.propose(config.rpn, output, anchors, batch.image_size, train=True)
    rois = sample_rois(config.box, proposals, batch, roi_keys)
    logits, deltas = net.box_head(pool(pyramid, rois.boxes, canvas, config.box.pool_size))
    terms |= box_losses(config, logits, deltas, rois, batch)

    first = int(config.box.samples * config.box.positive_fraction)
    positives = RoIs(*(x[:, :first] for x in rois))
    pooled = pool(pyramid, positives.boxes, canvas, config.mask.pool_size)
    mask_logits = net.mask_head(pooled, positives.positive.reshape(-1), train=True)
    return terms | {"mask": mask_loss(mask_logits, positives, batch)}


def box_losses(
    config: MaskRCNNConfig,
    logits: Float[Array, "BR _C"],
    deltas: Float[Array, "BR C 4"],
    rois: RoIs,
    batch: Batch,
) -> dict[str, LossTerm]:
    """Classification and box regression, both over the number of sampled RoIs."""
    take = jax.vmap(lambda values, index: values[index])
    valid, positive = rois.valid.reshape(-1), rois.positive.reshape(-1)
    labels = take(batch.labels, rois.gt).reshape(-1)
    class_loss = losses.softmax_cross_entropy(
        logits, jnp.where(positive, labels, config.num_classes)
    )
    gt_boxes = take(batch.boxes, rois.gt).reshape(-1, 4)
    target = ops.encode_boxes(gt_boxes, rois.boxes.reshape(-1, 4), config.box.delta_weights)
    delta = jnp.take_along_axis(deltas, labels[:, None, None], axis=1)[:, 0]
    box_loss = losses.smooth_l1_loss(delta, target, beta=config.box.smooth_l1_beta).sum(-1)
    count = valid.sum().astype(logits.dtype)
    return {
        "box_class": LossTerm(jnp.where(valid, class_loss, 0).sum(), count),
        "box": LossTerm(jnp.where(positive, box_loss, 0).sum(), count),
    }


def mask_loss(logits: Float[Array, "BF S S C"], rois: RoIs, batch: Batch) -> LossTerm:
    """Binary cross-entropy on the true class's mask, a mean over its pixels for each RoI."""
    size = logits.shape[1]
    targets = jax.vmap(
        lambda masks, gt_boxes, boxes, gt: ops.mask_targets(masks, gt_boxes, boxes, gt, size=size)
    )(batch.masks, batch.boxes, rois.boxes, rois.gt)
    targets = (targets.reshape(-1, size, size) >= 0.5).astype(logits.dtype)
    labels = jax.vmap(lambda values, index: values[index])(batch.labels, rois.gt).reshape(-1)
    chosen = _own_class(logits, labels)
    loss = losses.sigmoid_cross_entropy(chosen, targets).mean((1, 2))
    positive = rois.positive.reshape(-1)
    return LossTerm(jnp.where(positive, loss, 0).sum(), positive.sum().astype(logits.dtype))


def _own_class(logits: Float[Array, "R S S C"], labels: Int[Array, " R"]) -> Float[Array, "R S S"]:
    return jnp.take_along_axis(logits, labels[:, None, None, None], axis=3)[..., 0]


def _predict(net: MaskRCNN, images: Array, image_size: Int[Array, "B 2"]) -> Detections:
    config = net.config
    canvas = canvas_size(image_size, config.canvas_multiple)
    pyramid = net.features(images, image_size, canvas, train=False)
    anchors = rpn.make_anchors(config.rpn, pyramid, canvas)
    proposals = rpn.propose(config.rpn, net.rpn_head(pyramid), anchors, image_size, train=False)

    logits, deltas = net.box_head(pool(pyramid, proposals.boxes, canvas, config.box.pool_size))
    batch, slots = proposals.valid.shape
    boxes, scores, labels, valid = jax.vmap(lambda *image: select_detections(config.box, *image))(
        logits.reshape(batch, slots, -1),
        deltas.reshape(batch, slots, -1, 4),
        proposals,
        image_size,
    )
    pooled = pool(pyramid, boxes, canvas, config.mask.pool_size)
    mask_logits = net.mask_head(pooled, valid.reshape(-1), train=False)
    masks = nn.sigmoid(_own_class(mask_logits, labels.reshape(-1)))
    masks = jnp.where(valid[..., None, None], masks.reshape(*valid.shape, *masks.shape[1:]), 0)
    return Detections(boxes, scores, labels, masks, valid, MaskFrame.BOX)


def select_detections(
    config: BoxHeadConfig,
    logits: Float[Array, "P _C"],
    deltas: Float[Array, "P C 4"],
    proposals: Proposals,
    image_size: Int[Array, " 2"],
) -> tuple[Float[Array, "D 4"], Float[Array, " D"], Int[Array, " D"], Bool[Array, " D"]]:
    """Boxes, scores, labels and `valid` of one image's best detections after per-class NMS."""
    num_classes = deltas.shape[1]
    scores = jnp.where(proposals.valid[:, None], nn.softmax(logits)[:, :-1], 0).reshape(-1)
    top, pair = jax.lax.top_k(scores, min(config.nms_candidates, scores.shape[0]))
    proposal, label = pair // num_classes, pair % num_classes
    boxes = ops.decode_boxes(
        deltas[proposal, label], proposals.boxes[proposal], config.delta_weights
    )
    boxes = ops.clip_boxes(boxes, image_size)
    usable = (top > config.score_threshold) & (ops.box_area(boxes) > 0)
    keep = ops.batched_nms(boxes, top, label, config.nms_iou, usable)
    missing = max(config.detections - top.shape[0], 0)
    kept = jnp.pad(jnp.where(keep, top, 0), (0, missing))
    best, index = jax.lax.top_k(kept, config.detections)
    valid = best > 0
    index = jnp.where(valid, index, 0)
    return (
        jnp.where(valid[:, None], boxes[index], 0),
        best,
        jnp.where(valid, label[index], 0),
        valid,
    )
