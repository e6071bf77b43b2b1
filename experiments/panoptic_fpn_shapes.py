"""A small Panoptic FPN on scenes that jaxseg draws, from random weights; it needs no files.

    jaxseg train experiments/panoptic_fpn_shapes.py --workdir DIR

Data: five classes of shapes before three of stuff (plain, striped and dotted background).

It is the demo's Mask R-CNN with a semantic head. Measured: PQ 0.717 and 0.728 with two
seeds (docs/benchmarks.md). Hardware: 2 CPU cores.
"""

import dataclasses

from jaxseg.commands.demo import MASK_RCNN
from jaxseg.data import Shapes
from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.types import HeuristicMerging

experiment = dataclasses.replace(
    MASK_RCNN,
    model=PanopticFPNConfig(
        **vars(MASK_RCNN.model),
        num_stuff_classes=3,
        semantic=SemanticHeadConfig(conv_dim=32, norm_groups=8),
        merging=HeuristicMerging(min_stuff_area=128),
    ),
    data=dataclasses.replace(MASK_RCNN.data, source=Shapes(stuff=True)),
)
