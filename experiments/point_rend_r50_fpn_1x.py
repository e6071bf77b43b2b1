r"""PointRend R50-FPN on COCO, 12 epochs ("1x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/point_rend_r50_fpn_1x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 36.3 / 38.4 on val2017 (MMDetection, point-rend_r50-caffe_fpn_ms-1x_coco;
36.3 in the paper, table 1), after three times as many steps ("3x") 38.0 / 41.0. Not measured here:
no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, targets of masks and
points from crops, images without objects are used too.
"""

import dataclasses

from mask_rcnn_r50_fpn_1x import experiment as base

from jaxseg.data import Augmentation
from jaxseg.nn.pixels import PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo.point_rend import MMDET_R50_CAFFE_FPN

experiment = dataclasses.replace(
    base,
    model=dataclasses.replace(
        MMDET_R50_CAFFE_FPN, pixels=PixelConfig(), backbone=ResNetConfig(depth=50, freeze_at=2)
    ),
    data=dataclasses.replace(
        base.data, augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800))
    ),
)
