r"""Cascade Mask R-CNN R50-FPN fine-tuned from ImageNet on fluorescence micrographs of cell nuclei.

    jaxseg train experiments/cascade_mask_rcnn_nuclei_r50.py --workdir DIR \
        --data.source.path NUCLEI --pretrained RESNET50.npz

Data, weights and settings are those of experiments/mask_rcnn_nuclei_r50.py, but for the heads:
three stages of box and mask heads.

Measured beside Mask R-CNN: docs/benchmarks.md. Hardware: 2 CPU cores.
"""

import dataclasses

from mask_rcnn_nuclei_r50 import experiment as mask_rcnn

from jaxseg.heads.rcnn import two_stage_settings
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig

trunk = mask_rcnn.model
assert isinstance(trunk, MaskRCNNConfig)
box = dataclasses.replace(trunk.box, cls_agnostic_bbox_reg=True)

experiment = dataclasses.replace(
    mask_rcnn,
    model=CascadeRCNNConfig(
        **two_stage_settings(dataclasses.replace(trunk, box=box)),
        mask=trunk.mask,
    ),
)
