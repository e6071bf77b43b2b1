"""HTC in MMDetection: published models and names of arrays."""

from collections.abc import Iterator

from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.htc import HTCConfig
from jaxseg.zoo import cascade_rcnn
from jaxseg.zoo.engine import CONV, Entry, layer_entries
from jaxseg.zoo.record import NameTable


def mmdet_table(config: HTCConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection 2 and 3, `htc_r50_fpn` and its relatives."""
    same_layers = CascadeRCNNConfig(
        backbone=config.backbone,
        head_norm=config.head_norm,
        rpn=config.rpn,
        box=config.box,
        cascade=config.cascade,
        mask=config.mask,
    )
    for entry in cascade_rcnn.mmdet_table(same_layers):
        kind, module, *layer = entry.path
        _, is_mask, stage = module.partition("mask_heads_")
        yield entry._replace(
            path=(kind, "mask_flow", f"heads_{stage}", *layer) if is_mask else entry.path
        )
    for stage in range(1, len(config.cascade.positive_ious)):
        path = ("mask_flow", f"heads_{stage}", "conv_previous")
        yield from layer_entries(f"roi_head.mask_head.{stage}.conv_res.conv", path, CONV)
    if config.semantic is None:
        return
    root, head = "roi_head.semantic_head", "semantic_head"
    for i in range(5):
        path = (head, f"lateral{i + 2}")
        yield from layer_entries(f"{root}.lateral_convs.{i}.conv", path, CONV)
    for i in range(config.semantic.num_convs):
        yield from layer_entries(f"{root}.convs.{i}.conv", (head, f"conv{i + 1}"), CONV)
    yield from layer_entries(f"{root}.conv_embedding.conv", (head, "embedding"), CONV)
    yield from layer_entries(f"{root}.conv_logits", (head, "logit"), CONV)


TABLES = {"mmdet": NameTable(mmdet_table, "roi_head.")}
"""The names by codebase."""
