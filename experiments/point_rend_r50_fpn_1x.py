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

from jaxseg.data import Augmentation, CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.nn.pixels import PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.point_rend import MMDET_R50_CAFFE_FPN

EPOCH = 7330
"""Steps of an epoch of 16 images each."""

experiment = Experiment(
    model=dataclasses.replace(
        MMDET_R50_CAFFE_FPN, pixels=PixelConfig(), backbone=ResNetConfig(depth=50, freeze_at=2)
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((800, 1344), (1344, 800)),
        min_size=800,
        max_size=1333,
        augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800)),
        num_workers=8,
    ),
    train=TrainConfig(
        steps=12 * EPOCH,
        batch_size=16,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.02,
            warmup_steps=500,
            schedule="step",
            milestones=(8 * EPOCH, 11 * EPOCH),
            decay_norm_and_bias=True,
            grad_clip_norm=None,
        ),
    ),
    pretrained="resnet50.safetensors",
)
