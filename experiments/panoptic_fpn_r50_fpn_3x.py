"""Panoptic FPN R50-FPN on COCO, 270,000 steps ("3x"), as Detectron2 trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/panoptic_fpn_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Data: COCO's images with `annotations/panoptic_train2017.json` and its PNGs, and those of val2017.

Expected: PQ 41.5, mask / box AP 36.5 / 40.0 on val2017 (Detectron2, panoptic_fpn_R_50_3x). Not
measured here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
objects are the pixels of their panoptic segments, the semantic loss is computed at a stride of 4.
"""

import dataclasses

from mask_rcnn_r50_fpn_3x import experiment as schedule
from panoptic_fpn_r50_fpn_1x import experiment as base

experiment = dataclasses.replace(base, train=schedule.train)
