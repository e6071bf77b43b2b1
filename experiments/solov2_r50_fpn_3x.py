"""SOLOv2 R50-FPN on COCO, 36 epochs ("3x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/solov2_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask AP 37.5 on val2017 (MMDetection, solov2_r50_fpn_ms-3x_coco). Not measured here:
no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Difference from the reference: images without objects are used too.
"""

import dataclasses

from solov2_r50_fpn_1x import EPOCH
from solov2_r50_fpn_1x import experiment as base

from jaxseg.data import Augmentation

experiment = dataclasses.replace(
    base,
    data=dataclasses.replace(
        base.data, augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800))
    ),
    train=dataclasses.replace(
        base.train,
        steps=36 * EPOCH,
        optimizer=dataclasses.replace(
            base.train.optimizer, warmup_factor=1 / 3, milestones=(27 * EPOCH, 33 * EPOCH)
        ),
    ),
)
