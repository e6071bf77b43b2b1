"""Models small enough to compile in seconds, and batches for them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.cascade import CascadeConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rcnn import two_stage_settings
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import Model
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.htc import FusedSemanticHeadConfig, HTCConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRendConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.norm import NormKind, make_norm
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.types import Batch, BoxCrops, ImageMasks, Losses, LossTerm, TargetSpec

SLOTS = 6
MASK_SIZE = 16
CROPS = TargetSpec(BoxCrops(MASK_SIZE))
THINGS, STUFF = 3, 2


@dataclasses.dataclass(frozen=True)
class TinyBackboneConfig:
    """A convolution a stage: compiles in a fraction of a ResNet's time."""

    width: int = 8
    norm: NormKind = "group"
    remat: bool = False
    freeze_at: int = 0

    def build(self) -> nn.Module:
        return TinyBackbone(self)

    def is_frozen(self, layer: str) -> bool:
        return int(layer.removeprefix("stage")[0]) <= self.freeze_at


class TinyBackbone(nn.Module):
    """Images to `{4: C2, 8: C3, 16: C4, 32: C5}`."""

    config: TinyBackboneConfig

    @nn.compact
    def __call__(self, images, padded_size, train):
        maps, x = {}, images
        for stage, stride in enumerate((4, 8, 16, 32), start=2):
            step = 4 if stage == 2 else 2
            x = nn.Conv(
                self.config.width * (stage - 1),
                (3, 3),
                strides=(step, step),
                padding=1,
                use_bias=False,
                dtype=x.dtype,
                name=f"stage{stage}_conv",
            )(x)
            mask = extent_mask(level_extent(padded_size, stride), *x.shape[1:3])
            x = make_norm(self.config.norm, name=f"stage{stage}_norm")(
                x, mask, train and self.config.freeze_at < stage
            )
            x = zero_outside(nn.relu(x), mask)
            maps[stride] = x
        return maps


def tiny_config(norm="group") -> MaskRCNNConfig:
    return MaskRCNNConfig(
        num_classes=THINGS,
        backbone=TinyBackboneConfig(norm=norm),
        fpn_channels=16,
        head_norm=norm,
        rpn=RPNConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 48.0, 64.0),
            batch_size_per_image=256,
            pre_nms_topk_train=24,
            pre_nms_topk_test=24,
            post_nms_topk_train=20,
            post_nms_topk_test=20,
        ),
        box=BoxHeadConfig(
            fc_dim=32,
            batch_size_per_image=32,
            detections_per_image=8,
            pre_nms_topk=40,
            score_threshold=0.0,
        ),
        mask=MaskHeadConfig(num_convs=1, conv_dim=16, pooler_resolution=7, gt_mask_size=MASK_SIZE),
    )


def tiny_panoptic_fpn_config(norm="group") -> PanopticFPNConfig:
    return PanopticFPNConfig(
        **vars(tiny_config(norm)),
        num_stuff_classes=STUFF,
        semantic=SemanticHeadConfig(conv_dim=16, norm_groups=4),
    )


def tiny_cascade_config(norm="group", num_stages=2, **fields) -> CascadeRCNNConfig:
    config, cascade = tiny_config(norm), CascadeConfig()
    box = dataclasses.replace(config.box, cls_agnostic_bbox_reg=True)
    stages = {f.name: getattr(cascade, f.name)[:num_stages] for f in dataclasses.fields(cascade)}
    heads = {"box": box, "cascade": CascadeConfig(**stages), "mask": config.mask}
    return CascadeRCNNConfig(**two_stage_settings(config) | heads | fields)


def tiny_htc_config(norm="group", **fields) -> HTCConfig:
    config = tiny_cascade_config(norm)
    heads = {
        "cascade": config.cascade,
        "mask": config.mask,
        "semantic": FusedSemanticHeadConfig(num_convs=1),
        "num_semantic_classes": THINGS + STUFF,
    }
    return HTCConfig(**two_stage_settings(config) | heads | fields)


def tiny_point_rend_config(norm="group") -> PointRendConfig:
    return PointRendConfig(
        **two_stage_settings(tiny_config(norm)),
        coarse=CoarseMaskConfig(
            pooler_resolution=6, conv_dim=16, fc_dim=16, gt_mask_size=MASK_SIZE
        ),
        point=PointHeadConfig(
            num_fc=2, fc_dim=16, train_num_points=12, subdivision_steps=3, subdivision_num_points=36
        ),
    )


def tiny_solov2_config(norm="group") -> SOLOv2Config:
    return SOLOv2Config(
        num_classes=THINGS,
        backbone=TinyBackboneConfig(norm=norm),
        fpn_channels=16,
        num_grids=(8, 6, 5, 4, 3),
        scale_ranges=((1.0, 16.0), (8.0, 24.0), (16.0, 32.0), (24.0, 48.0), (40.0, 64.0)),
        num_head_convs=1,
        head_channels=16,
        mask_feat_channels=16,
        mask_out_channels=16,
        norm_groups=4,
        max_positives=64,
        score_threshold=0.0,
        pre_nms_topk=40,
        min_mask_area=(0, 0, 0, 0, 0),
        post_nms_score_threshold=0.0,
        detections_per_image=8,
    )


def toy_model():
    """Return a model of one weight and two loss terms, of which the first is noisy by index."""

    def loss(variables, batch, key):
        w, count = variables["params"]["w"], batch.valid.sum(1).astype(jnp.float32)
        noise = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(batch.index)
        pixels = batch.images.astype(jnp.float32).mean((1, 2, 3)) / 255
        terms = {
            "objects": LossTerm((count * (pixels + noise) * w**2).sum(), count.sum(), 2.0),
            "images": LossTerm(jnp.sum(pixels * w), jnp.asarray(1.0 * len(count)), offset=1.0),
        }
        return Losses(terms, {}, {"seen": {"images": variables["seen"]["images"] + len(count)}})

    def init(key, _):
        return {"params": {"w": jnp.asarray(1.5)}, "seen": {"images": jnp.zeros((), jnp.int32)}}

    return Model(init, loss, None, TargetSpec())


def make_batch(sizes, objects, bucket=(64, 64), slots=SLOTS, seed=0, targets=CROPS):
    """Return a batch of random images of true `sizes` with `objects[i]` objects each.

    The images and objects depend on the seed and the sizes, not on the bucket and the slots.
    """
    count = len(sizes)
    images = np.zeros((count, *bucket, 3), np.uint8)
    boxes = np.zeros((count, slots, 4), np.float32)
    labels = np.zeros((count, slots), np.int32)
    shape = None if targets.masks is None else targets.masks.shape(bucket)
    masks = None if shape is None else np.zeros((count, slots, *shape), bool)
    centers = np.zeros((count, slots, 2), np.float32) if targets.centers else None
    stride = targets.semantic_stride
    semantic = stride and np.full((count, bucket[0] // stride, bucket[1] // stride), 255, np.uint8)
    for i, ((height, width), number) in enumerate(zip(sizes, objects, strict=True)):
        rng = np.random.default_rng([seed, i])
        images[i, :height, :width] = rng.integers(0, 256, (height, width, 3))
        corner = rng.uniform(0, 0.5, (number, 2))
        side = rng.uniform(0.2, 0.5, (number, 2))
        scale = np.asarray([width, height] * 2)
        boxes[i, :number] = np.concatenate([corner, corner + side], 1) * scale
        labels[i, :number] = rng.integers(0, THINGS, number)
        if isinstance(targets.masks, BoxCrops):
            masks[i, :number] = rng.random((number, *shape)) < 0.7
        elif isinstance(targets.masks, ImageMasks):
            for n, (x1, y1, x2, y2) in enumerate(boxes[i, :number] / targets.masks.stride):
                masks[i, n, round(y1) : round(y2), round(x1) : round(x2)] = True
        if centers is not None:
            centers[i, :number] = (boxes[i, :number, :2] + boxes[i, :number, 2:]) / 2 - 0.5
        if semantic is not None:
            cells = -(-height // stride), -(-width // stride)
            labels_and_ignored = np.asarray([*range(THINGS + STUFF), 255], np.uint8)
            semantic[i, : cells[0], : cells[1]] = rng.choice(labels_and_ignored, cells)
    valid = np.arange(slots)[None, :] < np.asarray(objects)[:, None]
    return Batch(
        images=images,
        image_size=np.asarray(sizes, np.int32),
        boxes=boxes,
        labels=labels,
        valid=valid,
        index=np.arange(count, dtype=np.int32),
        masks=masks,
        centers=centers,
        semantic=semantic,
    )
