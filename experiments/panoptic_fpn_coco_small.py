"""A small Panoptic FPN on COCO photographs, to check every stage from panoptic data to PQ.

    jaxseg train experiments/panoptic_fpn_coco_small.py --workdir DIR --data.source.path COCO

Data: COCO's own panoptic layout (80 classes of things, 53 of stuff, crowds), any subset.

Reproduces no published result; a PQ above 0 is not expected of 100 steps. Hardware: 2 CPU cores.
"""

import dataclasses

from mask_rcnn_coco_small import experiment as base

from jaxseg.data import CocoFolder
from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.types import HeuristicMerging

experiment = dataclasses.replace(
    base,
    model=PanopticFPNConfig(
        **vars(base.model),
        num_stuff_classes=53,
        semantic=SemanticHeadConfig(conv_dim=64, norm_groups=16),
        merging=HeuristicMerging(min_stuff_area=1024),
    ),
    data=dataclasses.replace(
        base.data, source=CocoFolder("coco", train="train2017", val="val2017", panoptic=True)
    ),
)
