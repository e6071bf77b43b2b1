"""HTC in MMDetection: published models and names of arrays."""

import dataclasses
from collections.abc import Iterator

from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rcnn import two_stage_settings
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.htc import HTCConfig
from jaxseg.zoo import cascade_rcnn
from jaxseg.zoo.engine import CONV, Entry, layer_entries
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel

MMDET_R50_FPN = HTCConfig(
    backbone=cascade_rcnn.MMDET_R50_FPN.backbone,
    rpn=cascade_rcnn.MMDET_R50_FPN.rpn,
    roi_align=cascade_rcnn.MMDET_R50_FPN.roi_align,
    box=dataclasses.replace(
        cascade_rcnn.MMDET_R50_FPN.box, low_quality_overrides=True, score_threshold=0.001
    ),
    cascade=cascade_rcnn.MMDET_R50_FPN.cascade,
    mask=MaskHeadConfig(logit_init_std=None),
)

RECORDS = (
    ZooModel(
        name="mmdet_htc_r50_fpn",
        config=MMDET_R50_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, htc_r50_fpn_20e_coco (1x: 37.4 / 42.3)",
        mask_ap=38.3,
        box_ap=43.3,
        parameters=80_258_293,
        gmacs=427,
        experiment="htc_r50_fpn_1x",
    ),
    ZooModel(
        name="mmdet_htc_r101_fpn",
        config=dataclasses.replace(MMDET_R50_FPN, backbone=cascade_rcnn.MMDET_R101_FPN.backbone),
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, htc_r101_fpn_20e_coco",
        mask_ap=39.6,
        box_ap=44.8,
        parameters=99_250_421,
        gmacs=506,
    ),
    ZooModel(
        name="mmdet_htc_without_semantic_r50_fpn",
        config=dataclasses.replace(MMDET_R50_FPN, semantic=None),
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, htc-without-semantic_r50_fpn_1x_coco: a config without weights",
        mask_ap=None,
        box_ap=None,
        parameters=77_456_190,
        gmacs=377,
    ),
)


def mmdet_table(config: HTCConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection 2 and 3, `htc_r50_fpn` and its relatives."""
    same_layers = CascadeRCNNConfig(
        **two_stage_settings(config), cascade=config.cascade, mask=config.mask
    )
    for entry in cascade_rcnn.mmdet_table(same_layers):
        kind, module, *layer = entry.path
        _, is_mask, stage = module.partition("mask_heads_")
        if is_mask:
            entry = entry._replace(path=(kind, "mask_flow", f"heads_{stage}", *layer))
        yield entry
    for number in range(1, len(config.cascade.positive_ious)):
        path = ("mask_flow", f"heads_{number}", "conv_previous")
        yield from layer_entries(f"roi_head.mask_head.{number}.conv_res.conv", path, CONV)
    if config.semantic is None:
        return
    root, head = "roi_head.semantic_head", "semantic_head"
    for i in range(5):
        yield from layer_entries(f"{root}.lateral_convs.{i}.conv", (head, f"lateral{i + 2}"), CONV)
    for i in range(config.semantic.num_convs):
        yield from layer_entries(f"{root}.convs.{i}.conv", (head, f"conv{i + 1}"), CONV)
    yield from layer_entries(f"{root}.conv_embedding.conv", (head, "embedding"), CONV)
    yield from layer_entries(f"{root}.conv_logits", (head, "logit"), CONV)


TABLES = {"mmdet": NameTable(mmdet_table, "roi_head.")}
"""The names by codebase."""
