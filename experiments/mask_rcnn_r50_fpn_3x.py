"""Mask R-CNN R50-FPN on COCO, 270,000 steps ("3x"), as Detectron2 trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 37.2 / 41.0 on val2017 (Detectron2, mask_rcnn_R_50_FPN_3x). Not measured
here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x_detectron2 import experiment as base

experiment = dataclasses.replace(
    base,
    train=dataclasses.replace(
        base.train,
        steps=270_000,
        optimizer=dataclasses.replace(base.train.optimizer, milestones=(210_000, 250_000)),
    ),
)
