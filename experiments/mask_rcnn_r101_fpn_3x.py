"""Mask R-CNN R101-FPN on COCO, 270,000 steps ("3x"), as Detectron2 trains it.

    jaxseg weights import resnet101-63fe2227.pth --model resnet101 --out resnet101.safetensors
    jaxseg train experiments/mask_rcnn_r101_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 38.6 / 42.9 on val2017 (Detectron2, mask_rcnn_R_101_FPN_3x). Not measured
here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x_detectron2 import MODEL
from mask_rcnn_r50_fpn_3x import experiment as base

from jaxseg.nn.resnet import ResNetConfig

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(MODEL, backbone=ResNetConfig(depth=101, freeze_at=2)),
    pretrained="resnet101.safetensors",
)
