"""Cascade Mask R-CNN R50-FPN on COCO, 270,000 steps ("3x"), as Detectron2 trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/cascade_mask_rcnn_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 38.5 / 44.3 on val2017 (Detectron2, cascade_mask_rcnn_R_50_FPN_3x). Not
measured here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from cascade_mask_rcnn_r50_fpn_1x import experiment as base
from mask_rcnn_r50_fpn_3x import experiment as schedule

experiment = dataclasses.replace(base, train=schedule.train)
