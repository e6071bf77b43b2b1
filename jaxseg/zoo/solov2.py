"""SOLOv2's names at MMDetection, in AdelaiDet and in its authors' own repository.

The layers are the same everywhere. A tower is named by its convolutions and normalisations in
turn, and so is the way from a level of the pyramid to the mask feature.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.zoo.engine import CONV, Entry, Path, layer_entries
from jaxseg.zoo.resnet import detectron2_resnet, norm_entries, torchvision_resnet

Pair = tuple[str, str]
"""The names of a convolution and of the normalisation behind it."""


class _Heads(NamedTuple):
    class_layer: Callable[[int], Pair]
    """Of the class tower's layer of this number, from 0."""
    kernel_layer: Callable[[int], Pair]
    class_output: str
    kernel_output: str
    mask_layer: Callable[[int, int], Pair]
    """Of a level, from 0 for P2, and its layer's number."""
    mask_output: Pair


def _module(name: str) -> Pair:
    """MMDetection's convolution module."""
    return f"{name}.conv", f"{name}.gn"


def _in_sequence(name: str, first: int) -> Pair:
    """Two neighbours in torch's `Sequential`."""
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
    """MMDetection 3, `solov2_r50_fpn` and its relatives without deformable convolutions."""
    yield from torchvision_resnet(config.backbone, "backbone.")
    yield from _mmdet_neck()
    yield from _head_entries(config, _MMDET)


def authors_table(config: SOLOv2Config) -> Iterator[Entry]:
    """The authors' repository, `solov2_r50_fpn_8gpu_1x` and its relatives."""
    yield from torchvision_resnet(config.backbone, "backbone.")
    yield from _mmdet_neck()
    yield from _head_entries(config, _AUTHORS)


def adelaidet_table(config: SOLOv2Config) -> Iterator[Entry]:
    """AdelaiDet, `SOLOv2/R50_3x` and its relatives."""
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
    grids, masks = ("grid_head",), ("mask_feature",)
    for i in range(config.num_head_convs):
        yield from _conv_norm(names.class_layer(i), (*grids, f"class_conv{i + 1}"))
        yield from _conv_norm(names.kernel_layer(i), (*grids, f"kernel_conv{i + 1}"))
    yield from layer_entries(names.class_output, (*grids, "logit"), CONV)
    yield from layer_entries(names.kernel_output, (*grids, "kernel"), CONV)
    for level in range(4):
        for i in range(max(level, 1)):
            path = (*masks, f"level{level}_conv{i}")
            yield from _conv_norm(names.mask_layer(level, i), path)
    yield from _conv_norm(names.mask_output, (*masks, "output"))


def _conv_norm(names: Pair, path: Path) -> Iterator[Entry]:
    conv, norm = names
    yield from layer_entries(conv, (*path, "conv"), CONV, bias=None)
    yield from norm_entries(norm, (*path, "norm"), "group")
