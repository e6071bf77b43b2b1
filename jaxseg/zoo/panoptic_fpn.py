"""Panoptic FPN in MMDetection and Detectron2: published models and names of arrays.

Both are Mask R-CNN with a semantic head. MMDetection's class logits begin with the stuff and end
with all things as one class, as jaxseg's do; Detectron2's begin with the things.
"""

import dataclasses
from collections.abc import Iterator

from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import HeuristicMerging
from jaxseg.zoo import mask_rcnn
from jaxseg.zoo.engine import CONV, Entry, Path, chain, first_to_last, layer_entries
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel
from jaxseg.zoo.resnet import norm_entries

DETECTRON2_R50 = PanopticFPNConfig(**vars(mask_rcnn.DETECTRON2_R50_FPN))

DETECTRON2_R101 = PanopticFPNConfig(**vars(mask_rcnn.DETECTRON2_R101_FPN))

MMDET_R50_FPN = dataclasses.replace(
    PanopticFPNConfig(**vars(mask_rcnn.MMDET_R50_FPN)),
    box=dataclasses.replace(
        mask_rcnn.MMDET_R50_FPN.box, score_threshold=0.6, cls_agnostic_nms=True
    ),
    semantic=SemanticHeadConfig(count_ignored=True),
    merging=HeuristicMerging(score_threshold=0.6),
)
"""Its published figures are PQ alone: with this score threshold, AP is low."""

MMDET_R101_FPN = dataclasses.replace(
    MMDET_R50_FPN, backbone=ResNetConfig(depth=101, norm="norm_eval", freeze_at=2)
)

RECORDS = (
    ZooModel(
        name="detectron2_panoptic_fpn_r50",
        config=DETECTRON2_R50,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint=(
            "Detectron2 model zoo, panoptic_fpn_R_50_3x "
            "(panoptic_fpn_R_50_1x: 34.7 / 37.6; PQ 39.4)"
        ),
        mask_ap=36.5,
        box_ap=40.0,
        pq=41.5,
        parameters=45_973_990,
        gmacs=290,
        experiment="panoptic_fpn_r50_fpn_3x",
    ),
    ZooModel(
        name="detectron2_panoptic_fpn_r101",
        config=DETECTRON2_R101,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2 model zoo, panoptic_fpn_R_101_3x",
        mask_ap=38.5,
        box_ap=42.4,
        pq=43.0,
        parameters=64_913_894,
        gmacs=368,
        experiment="panoptic_fpn_r50_fpn_3x, with --model.backbone.depth 101",
    ),
    ZooModel(
        name="mmdet_panoptic_fpn_r50_fpn",
        config=MMDET_R50_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint=(
            "MMDetection, panoptic-fpn_r50_fpn_ms-3x_coco (panoptic-fpn_r50_fpn_1x_coco: PQ 40.2)"
        ),
        mask_ap=None,
        box_ap=None,
        pq=42.5,
        parameters=46_027_110,
        gmacs=295,
    ),
    ZooModel(
        name="mmdet_panoptic_fpn_r101_fpn",
        config=MMDET_R101_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint=(
            "MMDetection, panoptic-fpn_r101_fpn_ms-3x_coco (panoptic-fpn_r101_fpn_1x_coco: PQ 42.2)"
        ),
        mask_ap=None,
        box_ap=None,
        pq=44.1,
        parameters=65_019_238,
        gmacs=374,
    ),
)

HEAD: Path = ("semantic_head",)


def mmdet_table(config: PanopticFPNConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection 2 and 3."""
    yield from mask_rcnn.mmdet_table(config)
    for level, number, path in _convs():
        name = f"semantic_head.conv_upsample_layers.{level}.conv.{number}"
        yield from layer_entries(f"{name}.conv", (*path, "conv"), CONV, bias=None)
        yield from norm_entries(f"{name}.gn", (*path, "norm"), "group")
    yield from layer_entries("semantic_head.conv_logits", (*HEAD, "logit"), CONV)


def detectron2_table(config: PanopticFPNConfig) -> Iterator[Entry]:
    """Yield the names of Detectron2."""
    yield from mask_rcnn.detectron2_table(config)
    for level, number, path in _convs():
        # The upsampling after each convolution counts too.
        name = f"sem_seg_head.p{level + 2}.{2 * number}"
        yield from layer_entries(name, (*path, "conv"), CONV, bias=None)
        yield from norm_entries(f"{name}.norm", (*path, "norm"), "group")
    things_last = first_to_last(1)
    yield from layer_entries(
        "sem_seg_head.predictor", (*HEAD, "logit"), chain(things_last, CONV), things_last
    )


def _convs() -> Iterator[tuple[int, int, Path]]:
    """Yield level, number and path of the semantic head's 3x3 convolutions."""
    for level in range(4):
        for number in range(max(level, 1)):
            yield level, number, (*HEAD, f"level{level}_conv{number}")


TABLES = {
    "mmdet": NameTable(mmdet_table, "roi_head."),
    "detectron2": NameTable(detectron2_table, "backbone.bottom_up."),
}
"""The names by codebase."""
