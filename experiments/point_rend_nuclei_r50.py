r"""PointRend R50-FPN fine-tuned from ImageNet on fluorescence micrographs of cell nuclei.

    jaxseg train experiments/point_rend_nuclei_r50.py --workdir DIR --data.source.path NUCLEI \
        --pretrained RESNET50.npz

Data, weights and settings are those of experiments/mask_rcnn_nuclei_r50.py, but for the masks: they
are refined to 56x56, twice the side of Mask R-CNN's, which is more than the pixels of most nuclei.

Measured beside Mask R-CNN: docs/benchmarks.md. Hardware: 2 CPU cores.
"""

import dataclasses

from mask_rcnn_nuclei_r50 import experiment as mask_rcnn

from jaxseg.heads.rcnn import TwoStageConfig, two_stage_settings
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRendConfig

assert isinstance(mask_rcnn.model, TwoStageConfig)

experiment = dataclasses.replace(
    mask_rcnn,
    model=PointRendConfig(
        **two_stage_settings(mask_rcnn.model),
        coarse=CoarseMaskConfig(mask_targets="binary"),
        point=PointHeadConfig(subdivision_steps=3),
    ),
)
