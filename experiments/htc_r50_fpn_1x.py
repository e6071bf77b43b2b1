"""HTC R50-FPN on COCO, 12 epochs ("1x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/htc_r50_fpn_1x.py --workdir DIR --data.source.path COCO

Data: COCO's images and instances, and COCO-Stuff's maps in `stuffthingmaps/train2017/*.png`.

Expected: mask / box AP 37.4 / 42.3 on val2017 (MMDetection, htc_r50_fpn_1x_coco; 37.3 / 42.1 in its
first version). Not measured here: no full run has been made. Hardware of the reference: 8 GPUs, 2
images each.

Differences from the reference: mask targets from crops, images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x import experiment as base

from jaxseg.data import CocoFolder
from jaxseg.zoo.htc import MMDET_R50_FPN

SOURCE = CocoFolder(
    "coco",
    train="train2017",
    val="val2017",
    semantic_maps="stuffthingmaps",
    num_semantic_classes=MMDET_R50_FPN.num_semantic_classes,
)

experiment = dataclasses.replace(
    base, model=MMDET_R50_FPN, data=dataclasses.replace(base.data, source=SOURCE)
)
