"""Cascade R-CNN in MMDetection and Detectron2: published models and names of arrays.

The names are those of Mask R-CNN, with the number of the stage, which both count from 0.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.cascade import CascadeConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rcnn import two_stage_settings
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo import mask_rcnn
from jaxseg.zoo.engine import Entry
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel

MMDET_R50_FPN = CascadeRCNNConfig(
    backbone=ResNetConfig(depth=50, norm="norm_eval", freeze_at=2),
    rpn=RPNConfig(
        min_pos_iou=0.3,
        low_quality_overrides=True,
        allowed_border=0,
        count_empty=True,
        post_nms_topk_train=2000,
    ),
    roi_align=mask_rcnn.MMDET_R50_FPN.roi_align,
    box=BoxHeadConfig(cls_agnostic_bbox_reg=True, smooth_l1_beta=1.0),
    cascade=CascadeConfig(
        bbox_reg_weights=(
            (10.0, 10.0, 5.0, 5.0),
            (20.0, 20.0, 10.0, 10.0),
            (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067),
        )
    ),
    mask=MaskHeadConfig(logit_init_std=None),
)

MMDET_R101_FPN = dataclasses.replace(
    MMDET_R50_FPN, backbone=ResNetConfig(depth=101, norm="norm_eval", freeze_at=2)
)

DETECTRON2_R50_FPN = CascadeRCNNConfig(
    pixels=mask_rcnn.DETECTRON2_R50_FPN.pixels,
    backbone=mask_rcnn.DETECTRON2_R50_FPN.backbone,
    rpn=dataclasses.replace(mask_rcnn.DETECTRON2_R50_FPN.rpn, post_nms_topk_train=2000),
    roi_align=mask_rcnn.DETECTRON2_R50_FPN.roi_align,
    box=BoxHeadConfig(cls_agnostic_bbox_reg=True, smooth_l1_beta=0.0),
    cascade=CascadeConfig(loss_weights=(1.0, 1.0, 1.0)),
    variant="detectron2",
)

RECORDS = (
    ZooModel(
        name="mmdet_cascade_rcnn_r50_fpn",
        config=dataclasses.replace(MMDET_R50_FPN, mask=None),
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, cascade-rcnn_r50_fpn_20e_coco (1x: box 40.3)",
        mask_ap=None,
        box_ap=41.0,
        parameters=69_394_766,
        gmacs=243,
    ),
    ZooModel(
        name="mmdet_cascade_rcnn_r101_fpn",
        config=dataclasses.replace(MMDET_R101_FPN, mask=None),
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, cascade-rcnn_r101_fpn_20e_coco (1x: box 42.0)",
        mask_ap=None,
        box_ap=42.5,
        parameters=88_386_894,
        gmacs=322,
    ),
    ZooModel(
        name="mmdet_cascade_mask_rcnn_r50_fpn",
        config=MMDET_R50_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, cascade-mask-rcnn_r50_fpn_ms-3x_coco "
        "(1x: 35.9 / 41.2, 20e: 36.5 / 41.9)",
        mask_ap=38.5,
        box_ap=44.3,
        parameters=77_324_606,
        gmacs=384,
    ),
    ZooModel(
        name="mmdet_cascade_mask_rcnn_r101_fpn",
        config=MMDET_R101_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, cascade-mask-rcnn_r101_fpn_ms-3x_coco "
        "(1x: 37.3 / 42.9, 20e: 37.8 / 43.4)",
        mask_ap=39.6,
        box_ap=45.5,
        parameters=96_316_734,
        gmacs=463,
        experiment="cascade_mask_rcnn_r101_fpn_3x",
    ),
    ZooModel(
        name="detectron2_cascade_mask_rcnn_r50_fpn",
        config=DETECTRON2_R50_FPN,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2 model zoo, Misc/cascade_mask_rcnn_R_50_FPN_3x (1x: 36.4 / 42.1)",
        mask_ap=38.5,
        box_ap=44.3,
        parameters=71_984_926,
        gmacs=285,
        experiment="cascade_mask_rcnn_r50_fpn_3x",
    ),
)


def mmdet_table(config: CascadeRCNNConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection 2 and 3, `cascade_mask_rcnn_r50_fpn` and its relatives.

    Raises ValueError for Detectron2's variant, which has one mask head.
    """
    if config.variant != "mmdet":
        raise ValueError('MMDetection has a mask head for each stage: set variant="mmdet"')
    stages = len(config.cascade.positive_ious)
    for entry in mask_rcnn.mmdet_table(_with_one_stage(config)):
        if entry.path[1] != "mask_head" or config.mask is not None:
            yield from _of_stages(entry, stages)


def detectron2_table(config: CascadeRCNNConfig) -> Iterator[Entry]:
    """Yield the names of Detectron2's `cascade_mask_rcnn_R_50_FPN` and its relatives.

    Raises ValueError for MMDetection's variant, which has a mask head for each stage.
    """
    if config.variant != "detectron2":
        raise ValueError('Detectron2 has one mask head for all stages: set variant="detectron2"')
    stages = len(config.cascade.positive_ious)
    for entry in mask_rcnn.detectron2_table(_with_one_stage(config)):
        if entry.path[1] != "mask_head":
            yield from _of_stages(entry, stages)
        elif config.mask is not None:
            yield entry._replace(path=_stage_path(entry, 0))


def _with_one_stage(config: CascadeRCNNConfig) -> MaskRCNNConfig:
    """Return a Mask R-CNN with the layers of the trunk and of one stage."""
    return MaskRCNNConfig(**two_stage_settings(config), mask=config.mask or MaskHeadConfig())


def _of_stages(entry: Entry, stages: int) -> Iterable[Entry]:
    """Return a head's array for each stage, and any other array as it is."""
    if entry.path[1] not in ("box_head", "mask_head"):
        return [entry]
    codebase, head, layer = entry.name.split(".", 2)
    return [
        Entry(f"{codebase}.{head}.{stage}.{layer}", _stage_path(entry, stage), entry.layout)
        for stage in range(stages)
    ]


def _stage_path(entry: Entry, stage: int) -> tuple[str, ...]:
    kind, head, *layer = entry.path
    return kind, f"{head}s_{stage}", *layer


TABLES = {
    "mmdet": NameTable(mmdet_table, "roi_head."),
    "detectron2": NameTable(detectron2_table, "backbone.bottom_up."),
}
"""The names by codebase."""
