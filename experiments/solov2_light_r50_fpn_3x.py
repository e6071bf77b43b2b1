"""SOLOv2 Light R50-FPN at 448 pixels on COCO, 36 epochs ("3x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/solov2_light_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask AP 33.7 on val2017 (MMDetection, solov2-light_r50_fpn_ms-3x_coco). Not measured
here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: shorter sides of 352 to 448 pixels (the reference uses up to 512),
images without objects are used too.
"""

import dataclasses

from solov2_r50_fpn_3x import experiment as base

from jaxseg.data import Augmentation
from jaxseg.zoo.solov2 import MMDET_SOLOV2_LIGHT_R50

experiment = dataclasses.replace(
    base,
    model=MMDET_SOLOV2_LIGHT_R50,
    data=dataclasses.replace(
        base.data,
        buckets=((448, 768), (768, 448)),
        min_size=448,
        max_size=768,
        augmentation=Augmentation(min_sizes=(352, 384, 416, 448)),
    ),
)
