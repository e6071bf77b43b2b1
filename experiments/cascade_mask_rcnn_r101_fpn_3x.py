"""Cascade Mask R-CNN R101-FPN on COCO, 36 epochs ("3x"), as MMDetection trains it.

    jaxseg weights import resnet101-63fe2227.pth --model resnet101 --out resnet101.safetensors
    jaxseg train experiments/cascade_mask_rcnn_r101_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 39.6 / 45.5 on val2017 (MMDetection, cascade-mask-rcnn_r101_fpn_ms-3x_coco;
R50: 38.5 / 44.3). Not measured here: no full run has been made. Hardware of the reference: 8 GPUs,
2 images each.

Differences from the reference: six sizes of the shorter side instead of all from 640 to 800, mask
targets from crops, images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x import EPOCH
from mask_rcnn_r50_fpn_1x import experiment as base

from jaxseg.data import Augmentation
from jaxseg.zoo.cascade_rcnn import MMDET_R101_FPN

experiment = dataclasses.replace(
    base,
    model=MMDET_R101_FPN,
    data=dataclasses.replace(
        base.data, augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800))
    ),
    train=dataclasses.replace(
        base.train,
        steps=36 * EPOCH,
        optimizer=dataclasses.replace(base.train.optimizer, milestones=(27 * EPOCH, 33 * EPOCH)),
    ),
    pretrained="resnet101.safetensors",
)
