"""Cascade R-CNN in MMDetection and Detectron2: published models and names of arrays.

The names are those of Mask R-CNN, with the number of the stage, which both count from 0.
"""

from collections.abc import Iterable, Iterator

from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.zoo import mask_rcnn
from jaxseg.zoo.engine import Entry
from jaxseg.zoo.record import NameTable


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
    return MaskRCNNConfig(
        backbone=config.backbone,
        head_norm=config.head_norm,
        rpn=config.rpn,
        box=config.box,
        mask=config.mask or MaskHeadConfig(),
    )


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
