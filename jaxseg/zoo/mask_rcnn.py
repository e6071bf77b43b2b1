"""Mask R-CNN's names at torchvision, Detectron2 and MMDetection, one table each.

Detectron2 and MMDetection put the background last among the class logits, as jaxseg does, and
have no box or mask for it. Torchvision puts it first and has both (`background_outputs`).
"""

import re
from collections.abc import Iterator

import numpy as np

from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.zoo.engine import (
    CONV,
    DENSE,
    POINTWISE,
    VECTOR,
    Arrays,
    Entry,
    Layout,
    Path,
    layer_entries,
    then,
)
from jaxseg.zoo.resnet import detectron2_resnet, norm_entries, torchvision_resnet

UPSAMPLE = Layout(
    lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),
    lambda x: x.reshape(x.shape[0], 2, 2, -1).transpose(0, 3, 1, 2),
)
"""A transposed 2x2 convolution (IOHW) as the dense layer that makes four pixels of each."""


def _flattened(pool_size: int) -> Layout:
    """A dense layer on a flattened map: channels first at the peer, last here."""

    def from_source(x: np.ndarray) -> np.ndarray:
        cells = x.reshape(x.shape[0], -1, pool_size, pool_size)
        return cells.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def to_source(x: np.ndarray) -> np.ndarray:
        cells = x.reshape(pool_size, pool_size, -1, x.shape[1])
        return cells.transpose(3, 2, 0, 1).reshape(x.shape[1], -1)

    return Layout(from_source, to_source)


def _background_last(per_class: int) -> Layout:
    """The peer's first class becomes our last, each class being `per_class` rows."""
    return Layout(lambda x: np.roll(x, -per_class, 0), lambda x: np.roll(x, per_class, 0))


def _conv_norm(
    config: MaskRCNNConfig, conv: str, norm: str, path: Path, norm_path: Path
) -> Iterator[Entry]:
    """A convolution with a bias or, where the heads are normalised, with that instead."""
    if config.head_norm is None:
        yield from layer_entries(conv, path, CONV)
    else:
        yield from layer_entries(conv, path, CONV, bias=None)
        yield from norm_entries(norm, norm_path, config.head_norm)


def _outputs(
    config: MaskRCNNConfig, classes: str, boxes: str, upsample: str, masks: str, rolled: bool
) -> Iterator[Entry]:
    """The heads' last layers."""

    def ordered(layout: Layout, per_class: int, shared: bool = False) -> Layout:
        return then(_background_last(per_class), layout) if rolled and not shared else layout

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
    """`maskrcnn_resnet50_fpn` and `_v2`, as they are named since torchvision 0.13.

    Raises ValueError for a config whose heads torchvision has no names for.
    """
    if (
        not config.predict_background
        or config.box.cls_agnostic_bbox_reg
        or config.mask.cls_agnostic_mask
    ):
        raise ValueError(
            "torchvision's heads have a box and a mask for each class and for the background: "
            "the model must have background_outputs=True and not be class_agnostic"
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
    # In a sequence, the flattening and each activation count as a layer.
    names = [f"{convs + 1 + 2 * i}" if convs else f"fc{6 + i}" for i in range(_hidden(config))]
    yield from _hidden_layers(config, [f"roi_heads.box_head.{name}" for name in names])
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


def modern_torchvision(state: Arrays) -> dict[str, np.ndarray]:
    """A state dict with the names from before torchvision 0.13 renewed, as COCO_V1's are."""
    return {_modern_name(name): array for name, array in state.items()}


def _modern_name(name: str) -> str:
    for pattern, new in _OLD_TORCHVISION:
        found = pattern.match(name)
        if found and new is not None:
            return found.expand(new)
        if found:  # they counted from 1
            return f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
    return name


def mmdet_table(config: MaskRCNNConfig) -> Iterator[Entry]:
    """MMDetection 2 and 3, `mask_rcnn_r50_fpn` and its relatives."""
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
    yield from _hidden_layers(config, [f"{box}.shared_fcs.{i}" for i in range(_hidden(config))])
    for i in range(config.mask.num_convs):
        name, path = f"{mask}.convs.{i}", ("mask_head", f"conv{i + 1}")
        norm_path = ("mask_head", f"norm{i + 1}")
        yield from _conv_norm(config, f"{name}.conv", f"{name}.bn", path, norm_path)
    upsample, logits = f"{mask}.upsample", f"{mask}.conv_logits"
    yield from _outputs(config, f"{box}.fc_cls", f"{box}.fc_reg", upsample, logits, rolled=False)


def detectron2_table(config: MaskRCNNConfig) -> Iterator[Entry]:
    """Detectron2's model zoo, `mask_rcnn_R_50_FPN` and its relatives."""
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
    yield from _hidden_layers(config, [f"{box}.fc{i + 1}" for i in range(_hidden(config))])
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


def _hidden(config: MaskRCNNConfig) -> int:
    return config.box.num_fc


def _hidden_layers(config: MaskRCNNConfig, names: list[str]) -> Iterator[Entry]:
    """The box head's fully connected layers; the first one reads flattened maps."""
    for number, name in enumerate(names, start=1):
        layout = _flattened(config.box.pooler_resolution) if number == 1 else DENSE
        yield from layer_entries(name, ("box_head", f"hidden{number}"), layout)


_UNUSED = re.compile(
    r".*\.num_batches_tracked|pixel_(mean|std)|proposal_generator\.anchor_generator\..*"
)


def is_unused(name: str) -> bool:
    """Arrays that the peers store and no model needs: counters and constants."""
    return _UNUSED.fullmatch(name) is not None
