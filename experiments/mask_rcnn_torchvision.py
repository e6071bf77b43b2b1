"""Mask R-CNN R50-FPN on COCO, 26 epochs, as torchvision trains `maskrcnn_resnet50_fpn`.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_torchvision.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 34.6 / 37.9 on val2017 (torchvision, weights COCO_V1). Not measured here:
no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: the 80 classes that exist instead of 90, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.mask_rcnn import TORCHVISION_R50_FPN

EPOCH = 7329
"""Steps of an epoch of 16 images each."""

experiment = Experiment(
    model=dataclasses.replace(
        TORCHVISION_R50_FPN,
        num_classes=80,
        # With the default epsilon: only the published weights need an epsilon of 0.
        backbone=ResNetConfig(depth=50, freeze_at=2),
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((800, 1344), (1344, 800)),
        min_size=800,
        max_size=1333,
        resize_backend="torch",
        num_workers=8,
    ),
    train=TrainConfig(
        steps=26 * EPOCH,
        batch_size=16,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.02,
            warmup_steps=1000,
            schedule="step",
            milestones=(16 * EPOCH, 22 * EPOCH),
            decay_norm_and_bias=True,
            grad_clip_norm=None,
        ),
    ),
    pretrained="resnet50.safetensors",
)
