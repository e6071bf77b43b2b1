"""SOLOv2 in MMDetection, AdelaiDet and its authors' repository: published models and names.

The layers are the same in all three. `_Heads` has the names in the towers, and in the branches from
each level of the pyramid to the mask feature, layer by layer.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.pixels import MSRA_PIXELS
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo.engine import CONV, Entry, Path, layer_entries
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel
from jaxseg.zoo.resnet import detectron2_resnet, norm_entries, torchvision_resnet

MMDET_SOLOV2_R50 = SOLOv2Config(
    backbone=ResNetConfig(depth=50, norm="norm_eval", freeze_at=2), shared_cells="last"
)
"""The authors' own models have this architecture too."""

MMDET_SOLOV2_R101 = dataclasses.replace(
    MMDET_SOLOV2_R50, backbone=ResNetConfig(depth=101, norm="norm_eval", freeze_at=2)
)

MMDET_SOLOV2_LIGHT_R50 = dataclasses.replace(
    MMDET_SOLOV2_R50,
    scale_ranges=((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0)),
    num_head_convs=2,
    head_channels=256,
    mask_out_channels=128,
)
"""For images with a shorter side of 448."""

MMDET_SOLOV2_LIGHT_R34 = dataclasses.replace(
    MMDET_SOLOV2_LIGHT_R50, backbone=ResNetConfig(depth=34, norm="norm_eval", freeze_at=2)
)

MMDET_SOLOV2_LIGHT_R18 = dataclasses.replace(
    MMDET_SOLOV2_LIGHT_R50, backbone=ResNetConfig(depth=18, norm="norm_eval", freeze_at=2)
)

ADELAIDET_SOLOV2_R50 = dataclasses.replace(
    MMDET_SOLOV2_R50,
    pixels=MSRA_PIXELS,
    backbone=ResNetConfig(depth=50, stride_in_1x1=True, freeze_at=2),
)

ADELAIDET_SOLOV2_R101 = dataclasses.replace(
    ADELAIDET_SOLOV2_R50, backbone=ResNetConfig(depth=101, stride_in_1x1=True, freeze_at=2)
)

_LIGHT = Preprocessing("cv2", min_size=448, max_size=768, buckets=((448, 768), (768, 448)))

RECORDS = (
    ZooModel(
        name="mmdet_solov2_r50_fpn",
        config=MMDET_SOLOV2_R50,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, solov2_r50_fpn_ms-3x_coco (solov2_r50_fpn_1x_coco: 34.8)",
        mask_ap=37.5,
        box_ap=None,
        parameters=46_592_912,
        gmacs=278,
        experiment="solov2_r50_fpn_3x",
    ),
    ZooModel(
        name="mmdet_solov2_r101_fpn",
        config=MMDET_SOLOV2_R101,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, solov2_r101_fpn_ms-3x_coco",
        mask_ap=39.1,
        box_ap=None,
        parameters=65_585_040,
        gmacs=357,
        experiment="solov2_r50_fpn_3x, with --model.backbone.depth 101",
    ),
    ZooModel(
        name="mmdet_solov2_light_r18_fpn",
        config=MMDET_SOLOV2_LIGHT_R18,
        codebase="mmdet",
        preprocessing=_LIGHT,
        checkpoint="MMDetection, solov2-light_r18_fpn_ms-3x_coco",
        mask_ap=29.7,
        box_ap=None,
        parameters=18_271_760,
        gmacs=58,
        experiment="solov2_light_r50_fpn_3x, with --model.backbone.depth 18",
    ),
    ZooModel(
        name="mmdet_solov2_light_r34_fpn",
        config=MMDET_SOLOV2_LIGHT_R34,
        codebase="mmdet",
        preprocessing=_LIGHT,
        checkpoint="MMDetection, solov2-light_r34_fpn_ms-3x_coco",
        mask_ap=31.9,
        box_ap=None,
        parameters=28_379_920,
        gmacs=70,
        experiment="solov2_light_r50_fpn_3x, with --model.backbone.depth 34",
    ),
    ZooModel(
        name="mmdet_solov2_light_r50_fpn",
        config=MMDET_SOLOV2_LIGHT_R50,
        codebase="mmdet",
        preprocessing=_LIGHT,
        checkpoint="MMDetection, solov2-light_r50_fpn_ms-3x_coco",
        mask_ap=33.7,
        box_ap=None,
        parameters=31_340_560,
        gmacs=76,
        experiment="solov2_light_r50_fpn_3x",
    ),
    ZooModel(
        name="solo_solov2_r50_fpn",
        config=MMDET_SOLOV2_R50,
        codebase="solo",
        preprocessing=Preprocessing("cv2"),
        checkpoint="the authors' repository, solov2_r50_fpn_8gpu_1x",
        mask_ap=34.8,
        box_ap=None,
        parameters=46_592_912,
        gmacs=278,
        experiment="solov2_r50_fpn_1x",
    ),
    ZooModel(
        name="adelaidet_solov2_r50_fpn",
        config=ADELAIDET_SOLOV2_R50,
        codebase="adelaidet",
        preprocessing=Preprocessing("pillow"),
        checkpoint="AdelaiDet, SOLOv2/R50_3x",
        mask_ap=37.6,
        box_ap=None,
        parameters=46_539_792,
        gmacs=273,
    ),
    ZooModel(
        name="adelaidet_solov2_r101_fpn",
        config=ADELAIDET_SOLOV2_R101,
        codebase="adelaidet",
        preprocessing=Preprocessing("pillow"),
        checkpoint="AdelaiDet, SOLOv2/R101_3x",
        mask_ap=None,
        box_ap=None,
        parameters=65_479_696,
        gmacs=352,
    ),
)

Pair = tuple[str, str]
"""The names of a convolution and of its normalisation."""


class _Heads(NamedTuple):
    """The names of the heads' layers in one codebase."""

    class_layer: Callable[[int], Pair]
    """From the number of a layer of the class tower, from 0, to its names."""
    kernel_layer: Callable[[int], Pair]
    class_output: str
    kernel_output: str
    mask_layer: Callable[[int, int], Pair]
    """From a level, 0 for P2, and the number of its layer to the names."""
    mask_output: Pair


def _module(name: str) -> Pair:
    """Return the names in MMDetection's ConvModule."""
    return f"{name}.conv", f"{name}.gn"


def _in_sequence(name: str, first: int) -> Pair:
    """Return the names of two neighbours in torch's `Sequential`."""
    return f"{name}.{first}", f"{name}.{first + 1}"


_MMDET = _Heads(
    class_layer=lambda i: _module(f"mask_head.cls_convs.{i}"),
    kernel_layer=lambda i: _module(f"mask_head.kernel_convs.{i}"),
    class_output="mask_head.conv_cls",
    kernel_output="mask_head.conv_kernel",
    mask_layer=lambda level, i: _module(
        f"mask_head.mask_feature_head.convs_all_levels.{level}.conv{i}"
    ),
    mask_output=_module("mask_head.mask_feature_head.conv_pred"),
)
_AUTHORS = _Heads(
    class_layer=lambda i: _module(f"bbox_head.cate_convs.{i}"),
    kernel_layer=lambda i: _module(f"bbox_head.kernel_convs.{i}"),
    class_output="bbox_head.solo_cate",
    kernel_output="bbox_head.solo_kernel",
    mask_layer=lambda level, i: _module(f"mask_feat_head.convs_all_levels.{level}.conv{i}"),
    mask_output=_module("mask_feat_head.conv_pred.0"),
)
_ADELAIDET = _Heads(
    # Convolution, normalisation and activation count.
    class_layer=lambda i: _in_sequence("ins_head.cate_tower", 3 * i),
    kernel_layer=lambda i: _in_sequence("ins_head.kernel_tower", 3 * i),
    class_output="ins_head.cate_pred",
    kernel_output="ins_head.kernel_pred",
    mask_layer=lambda level, i: _in_sequence(f"mask_head.convs_all_levels.{level}.conv{i}", 0),
    mask_output=_in_sequence("mask_head.conv_pred", 0),
)


def mmdet_table(config: SOLOv2Config) -> Iterator[Entry]:
    """Yield the names of MMDetection 3, without deformable convolutions."""
    yield from torchvision_resnet(config.backbone, "backbone.")
    yield from _mmdet_neck()
    yield from _head_entries(config, _MMDET)


def authors_table(config: SOLOv2Config) -> Iterator[Entry]:
    """Yield the names of the authors' repository."""
    yield from torchvision_resnet(config.backbone, "backbone.")
    yield from _mmdet_neck()
    yield from _head_entries(config, _AUTHORS)


def adelaidet_table(config: SOLOv2Config) -> Iterator[Entry]:
    """Yield the names of AdelaiDet."""
    yield from detectron2_resnet(config.backbone, "backbone.bottom_up.")
    for level in range(2, 6):
        for ours in ("lateral", "output"):
            name = f"backbone.fpn_{ours}{level}"
            yield from layer_entries(name, ("fpn", f"{ours}{level}"), CONV)
    yield from _head_entries(config, _ADELAIDET)


def _mmdet_neck() -> Iterator[Entry]:
    for i in range(4):
        for theirs, ours in (("lateral_convs", "lateral"), ("fpn_convs", "output")):
            yield from layer_entries(f"neck.{theirs}.{i}.conv", ("fpn", f"{ours}{i + 2}"), CONV)


def _head_entries(config: SOLOv2Config, names: _Heads) -> Iterator[Entry]:
    head, masks = ("head",), ("mask_feature_head",)
    for i in range(config.num_head_convs):
        yield from _conv_norm(names.class_layer(i), (*head, "class_tower", f"conv{i + 1}"))
        yield from _conv_norm(names.kernel_layer(i), (*head, "kernel_tower", f"conv{i + 1}"))
    yield from layer_entries(names.class_output, (*head, "logit"), CONV)
    yield from layer_entries(names.kernel_output, (*head, "kernel"), CONV)
    for level in range(4):
        for i in range(max(level, 1)):
            path = (*masks, f"level{level}_conv{i}")
            yield from _conv_norm(names.mask_layer(level, i), path)
    yield from _conv_norm(names.mask_output, (*masks, "output"))


def _conv_norm(names: Pair, path: Path) -> Iterator[Entry]:
    conv, norm = names
    yield from layer_entries(conv, (*path, "conv"), CONV, bias=None)
    yield from norm_entries(norm, (*path, "norm"), "group")


TABLES = {
    "mmdet": NameTable(mmdet_table, "mask_head.mask_feature_head."),
    "adelaidet": NameTable(adelaidet_table, "ins_head."),
    "solo": NameTable(authors_table, "bbox_head.solo_"),
}
"""The names by codebase; "solo" is the authors' repository."""
