"""Cascade Mask R-CNN R50-FPN on COCO, 90,000 steps ("1x"), as Detectron2 trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/cascade_mask_rcnn_r50_fpn_1x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 36.4 / 42.1 on val2017 (Detectron2, cascade_mask_rcnn_R_50_FPN_1x). Not
measured here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x_detectron2 import MODEL
from mask_rcnn_r50_fpn_1x_detectron2 import experiment as base

from jaxseg.zoo.cascade_rcnn import DETECTRON2_R50_FPN

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(DETECTRON2_R50_FPN, pixels=MODEL.pixels, backbone=MODEL.backbone),
)
