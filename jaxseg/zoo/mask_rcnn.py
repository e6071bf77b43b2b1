"""Mask R-CNN in torchvision, Detectron2 and MMDetection: published models and names of arrays.

Detectron2 and MMDetection put the background last among the class logits, as jaxseg does, and
have no box or mask for it. Torchvision puts it first and has both (`predict_background`).
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.pixels import MSRA_PIXELS, PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo.engine import (
    CONV,
    DENSE,
    POINTWISE,
    VECTOR,
    Entry,
    Layout,
    Path,
    chain,
    first_to_last,
    layer_entries,
)
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel
from jaxseg.zoo.resnet import detectron2_resnet, norm_entries, torchvision_resnet

TORCHVISION_R50_FPN = MaskRCNNConfig(
    num_classes=90,
    # Torchvision sets the epsilon of its published COCO_V1 weights to 0; it is 1e-5 otherwise.
    backbone=ResNetConfig(depth=50, norm_epsilon=0.0, freeze_at=2),
    rpn=RPNConfig(round_anchors=True, min_size=1e-3, post_nms_topk_train=2000),
    roi_align=RoIAlignConfig(aligned=False, sampling_ratio=2),
    box=BoxHeadConfig(min_size=1e-2),
    mask=MaskHeadConfig(logit_init_std=None, paste="integer"),
    predict_background=True,
)

TORCHVISION_R50_FPN_V2 = dataclasses.replace(
    TORCHVISION_R50_FPN,
    backbone=ResNetConfig(depth=50, norm="sync_batch"),
    head_norm="sync_batch",
    rpn=dataclasses.replace(TORCHVISION_R50_FPN.rpn, num_convs=2),
    box=dataclasses.replace(TORCHVISION_R50_FPN.box, num_convs=4, num_fc=1),
)
"""Li et al. 2021, arXiv 2111.11429."""

DETECTRON2_R50_FPN = MaskRCNNConfig(
    pixels=MSRA_PIXELS,
    backbone=ResNetConfig(depth=50, stride_in_1x1=True, freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0),
    roi_align=RoIAlignConfig(aligned=True, sampling_ratio=0),
    box=BoxHeadConfig(smooth_l1_beta=0.0),
)

DETECTRON2_R101_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN, backbone=ResNetConfig(depth=101, stride_in_1x1=True, freeze_at=2)
)

DETECTRON2_X101_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN,
    pixels=PixelConfig((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "bgr"),
    backbone=ResNetConfig(depth=101, groups=32, width_per_group=8, freeze_at=2),
)

MMDET_R50_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN,
    pixels=PixelConfig(),
    backbone=ResNetConfig(depth=50, norm="norm_eval", freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0, min_pos_iou=0.3, low_quality_overrides=True),
    box=dataclasses.replace(DETECTRON2_R50_FPN.box, low_quality_overrides=True),
    mask=MaskHeadConfig(logit_init_std=None),
)

RECORDS = (
    ZooModel(
        name="maskrcnn_resnet50_fpn",
        config=TORCHVISION_R50_FPN,
        codebase="torchvision",
        preprocessing=Preprocessing("torch"),
        checkpoint="torchvision, weights COCO_V1",
        mask_ap=34.6,
        box_ap=37.9,
        parameters=44_401_393,
        gmacs=264,
        experiment="mask_rcnn_torchvision",
    ),
    ZooModel(
        name="maskrcnn_resnet50_fpn_v2",
        config=TORCHVISION_R50_FPN_V2,
        codebase="torchvision",
        preprocessing=Preprocessing("torch"),
        checkpoint="torchvision, weights COCO_V1",
        mask_ap=41.8,
        box_ap=47.4,
        parameters=46_359_409,
        gmacs=411,
        experiment="mask_rcnn_torchvision_v2",
    ),
    ZooModel(
        name="detectron2_mask_rcnn_r50_fpn",
        config=DETECTRON2_R50_FPN,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2 model zoo, R_50_FPN_3x (R_50_FPN_1x: 35.2 / 38.6)",
        mask_ap=37.2,
        box_ap=41.0,
        parameters=44_343_216,
        gmacs=259,
        experiment="mask_rcnn_r50_fpn_3x",
    ),
    ZooModel(
        name="detectron2_mask_rcnn_r101_fpn",
        config=DETECTRON2_R101_FPN,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2 model zoo, R_101_FPN_3x",
        mask_ap=38.6,
        box_ap=42.9,
        parameters=63_283_120,
        gmacs=338,
        experiment="mask_rcnn_r101_fpn_3x",
    ),
    ZooModel(
        name="detectron2_mask_rcnn_x101_32x8d_fpn",
        config=DETECTRON2_X101_FPN,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2 model zoo, X_101_32x8d_FPN_3x",
        mask_ap=39.5,
        box_ap=44.3,
        parameters=107_427_760,
        gmacs=529,
    ),
    ZooModel(
        name="mmdet_mask_rcnn_r50_fpn",
        config=MMDET_R50_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, mask-rcnn_r50_fpn_1x_coco",
        mask_ap=34.7,
        box_ap=38.2,
        parameters=44_396_336,
        gmacs=264,
        experiment="mask_rcnn_r50_fpn_1x",
    ),
)

UPSAMPLE = Layout(
    lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),
    lambda x: x.reshape(x.shape[0], 2, 2, -1).transpose(0, 3, 1, 2),
)
"""A transposed 2x2 convolution (IOHW) as a dense layer that makes four pixels of each cell."""


def flattened(pool_size: int) -> Layout:
    """Return the layout of a dense layer on flattened maps: CHW in the source, HWC in jaxseg."""

    def from_source(x: np.ndarray) -> np.ndarray:
        cells = x.reshape(x.shape[0], -1, pool_size, pool_size)
        return cells.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def to_source(x: np.ndarray) -> np.ndarray:
        cells = x.reshape(pool_size, pool_size, -1, x.shape[1])
        return cells.transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return Layout(from_source, to_source)


def _conv_norm(
    config: MaskRCNNConfig, conv: str, norm: str, path: Path, norm_path: Path
) -> Iterator[Entry]:
    """Yield a convolution with its bias or, where heads are normalised, with its norm."""
    if config.head_norm is None:
        yield from layer_entries(conv, path, CONV)
    else:
        yield from layer_entries(conv, path, CONV, bias=None)
        yield from norm_entries(norm, norm_path, config.head_norm)


def _outputs(
    config: MaskRCNNConfig, classes: str, boxes: str, upsample: str, masks: str, rolled: bool
) -> Iterator[Entry]:
    """Yield the heads' last layers."""

    def ordered(layout: Layout, per_class: int, shared: bool = False) -> Layout:
        return chain(first_to_last(per_class), layout) if rolled and not shared else layout

    box, mask = ("box_head",), ("mask_head",)
    yield from layer_entries(classes, (*box, "logit"), ordered(DENSE, 1), ordered(VECTOR, 1))
    shared = config.box.cls_agnostic_bbox_reg
    boxes_layout = ordered(DENSE, 4, shared), ordered(VECTOR, 4, shared)
    yield from layer_entries(boxes, (*box, "delta"), *boxes_layout)
    yield Entry(f"{upsample}.weight", ("params", *mask, "upsample", "kernel"), UPSAMPLE)
    yield Entry(f"{upsample}.bias", ("params", *mask, "upsample_bias"), VECTOR)
    shared = config.mask.cls_agnostic_mask
    masks_layout = ordered(POINTWISE, 1, shared), ordered(VECTOR, 1, shared)
    yield from layer_entries(masks, (*mask, "logit"), *masks_layout)


def torchvision_table(config: MaskRCNNConfig) -> Iterator[Entry]:
    """Yield the names of `maskrcnn_resnet50_fpn` and `_v2` since torchvision 0.13.

    Raises ValueError for a config whose heads torchvision has no names for.
    """
    if (
        not config.predict_background
        or config.box.cls_agnostic_bbox_reg
        or config.mask.cls_agnostic_mask
    ):
        raise ValueError(
            "torchvision's heads have a box and a mask for each class and for the background: "
            "set predict_background=True and no class-agnostic head"
        )
    yield from torchvision_resnet(config.backbone, "backbone.body.")
    for i in range(4):
        for blocks, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            name, path = f"backbone.fpn.{blocks}.{i}", ("fpn", f"{ours}{i + 2}")
            norm_path = ("fpn", f"{ours}{i + 2}_norm")
            yield from _conv_norm(config, f"{name}.0", f"{name}.1", path, norm_path)
    for i in range(config.rpn.num_convs):
        yield from layer_entries(f"rpn.head.conv.{i}.0", ("rpn_head", f"conv{i + 1}"), CONV)
    yield from layer_entries("rpn.head.cls_logits", ("rpn_head", "logit"), CONV)
    yield from layer_entries("rpn.head.bbox_pred", ("rpn_head", "delta"), CONV)

    convs = config.box.num_convs
    for i in range(convs):
        name, path = f"roi_heads.box_head.{i}", ("box_head", f"conv{i + 1}")
        norm_path = ("box_head", f"norm{i + 1}")
        yield from _conv_norm(config, f"{name}.0", f"{name}.1", path, norm_path)
    # In a Sequential, the flattening and each activation count as a layer.
    names = [f"{convs + 1 + 2 * i}" if convs else f"fc{6 + i}" for i in range(config.box.num_fc)]
    yield from _fc_layers(config, [f"roi_heads.box_head.{name}" for name in names])
    for i in range(config.mask.num_convs):
        name, path = f"roi_heads.mask_head.{i}", ("mask_head", f"conv{i + 1}")
        norm_path = ("mask_head", f"norm{i + 1}")
        yield from _conv_norm(config, f"{name}.0", f"{name}.1", path, norm_path)
    yield from _outputs(
        config,
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.conv5_mask",
        "roi_heads.mask_predictor.mask_fcn_logits",
        rolled=True,
    )


_OLD_TORCHVISION = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$"), None),
)


def current_torchvision_name(name: str) -> str:
    """Return the present name of an array from before torchvision 0.13, such as COCO_V1's."""
    for pattern, new in _OLD_TORCHVISION:
        found = pattern.match(name)
        if found and new is not None:
            return found.expand(new)
        if found:  # the old names counted from 1
            return f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
    return name


def mmdet_table(config: MaskRCNNConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection 2 and 3, `mask_rcnn_r50_fpn` and its relatives."""
    yield from torchvision_resnet(config.backbone, "backbone.")
    for i in range(4):
        for blocks, ours in (("lateral_convs", "lateral"), ("fpn_convs", "output")):
            name, path = f"neck.{blocks}.{i}", ("fpn", f"{ours}{i + 2}")
            norm_path = ("fpn", f"{ours}{i + 2}_norm")
            yield from _conv_norm(config, f"{name}.conv", f"{name}.bn", path, norm_path)
    yield from layer_entries("rpn_head.rpn_conv", ("rpn_head", "conv1"), CONV)
    yield from layer_entries("rpn_head.rpn_cls", ("rpn_head", "logit"), CONV)
    yield from layer_entries("rpn_head.rpn_reg", ("rpn_head", "delta"), CONV)
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    for i in range(config.box.num_convs):
        name, path = f"{box}.shared_convs.{i}", ("box_head", f"conv{i + 1}")
        norm_path = ("box_head", f"norm{i + 1}")
        yield from _conv_norm(config, f"{name}.conv", f"{name}.bn", path, norm_path)
    yield from _fc_layers(config, [f"{box}.shared_fcs.{i}" for i in range(config.box.num_fc)])
    for i in range(config.mask.num_convs):
        name, path = f"{mask}.convs.{i}", ("mask_head", f"conv{i + 1}")
        norm_path = ("mask_head", f"norm{i + 1}")
        yield from _conv_norm(config, f"{name}.conv", f"{name}.bn", path, norm_path)
    upsample, logits = f"{mask}.upsample", f"{mask}.conv_logits"
    yield from _outputs(config, f"{box}.fc_cls", f"{box}.fc_reg", upsample, logits, rolled=False)


def detectron2_table(config: MaskRCNNConfig) -> Iterator[Entry]:
    """Yield the names of Detectron2's model zoo, `mask_rcnn_R_50_FPN` and its relatives."""
    yield from detectron2_resnet(config.backbone, "backbone.bottom_up.")
    for level in range(2, 6):
        for theirs, ours in (("fpn_lateral", "lateral"), ("fpn_output", "output")):
            name, path = f"backbone.{theirs}{level}", ("fpn", f"{ours}{level}")
            norm_path = ("fpn", f"{ours}{level}_norm")
            yield from _conv_norm(config, name, f"{name}.norm", path, norm_path)
    rpn = "proposal_generator.rpn_head"
    yield from layer_entries(f"{rpn}.conv", ("rpn_head", "conv1"), CONV)
    yield from layer_entries(f"{rpn}.objectness_logits", ("rpn_head", "logit"), CONV)
    yield from layer_entries(f"{rpn}.anchor_deltas", ("rpn_head", "delta"), CONV)
    box, mask = "roi_heads.box_head", "roi_heads.mask_head"
    for i in range(1, config.box.num_convs + 1):
        name, path = f"{box}.conv{i}", ("box_head", f"conv{i}")
        yield from _conv_norm(config, name, f"{name}.norm", path, ("box_head", f"norm{i}"))
    yield from _fc_layers(config, [f"{box}.fc{i + 1}" for i in range(config.box.num_fc)])
    for i in range(1, config.mask.num_convs + 1):
        name, path = f"{mask}.mask_fcn{i}", ("mask_head", f"conv{i}")
        yield from _conv_norm(config, name, f"{name}.norm", path, ("mask_head", f"norm{i}"))
    predictor = "roi_heads.box_predictor"
    yield from _outputs(
        config,
        f"{predictor}.cls_score",
        f"{predictor}.bbox_pred",
        f"{mask}.deconv",
        f"{mask}.predictor",
        rolled=False,
    )


def _fc_layers(config: MaskRCNNConfig, names: list[str]) -> Iterator[Entry]:
    """Yield the box head's fully connected layers; the first one reads flattened maps."""
    for number, name in enumerate(names, start=1):
        layout = flattened(config.box.pooler_resolution) if number == 1 else DENSE
        yield from layer_entries(name, ("box_head", f"hidden{number}"), layout)


TABLES = {
    "torchvision": NameTable(torchvision_table, "backbone.body.", current_torchvision_name),
    "mmdet": NameTable(mmdet_table, "roi_head."),
    "detectron2": NameTable(detectron2_table, "backbone.bottom_up."),
}
"""The names by codebase."""
