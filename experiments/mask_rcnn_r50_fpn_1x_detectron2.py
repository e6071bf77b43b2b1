r"""Mask R-CNN R50-FPN on COCO, 90,000 steps ("1x"), as Detectron2 trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_r50_fpn_1x_detectron2.py --workdir DIR \
        --data.source.path COCO

Expected: mask / box AP 35.2 / 38.6 on val2017 (Detectron2, mask_rcnn_R_50_FPN_1x). Not measured
here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: torchvision's backbone instead of MSRA's, mask targets from crops,
images without objects are used too.
"""

import dataclasses

from jaxseg.data import Augmentation, CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.nn.pixels import PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.mask_rcnn import DETECTRON2_R50_FPN

MODEL = dataclasses.replace(
    DETECTRON2_R50_FPN, pixels=PixelConfig(), backbone=ResNetConfig(depth=50, freeze_at=2)
)

experiment = Experiment(
    model=MODEL,
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((800, 1344), (1344, 800)),
        min_size=800,
        max_size=1333,
        resize_backend="pillow",
        augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800)),
        num_workers=8,
    ),
    train=TrainConfig(
        steps=90_000,
        batch_size=16,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.02,
            warmup_steps=1000,
            schedule="step",
            milestones=(60_000, 80_000),
            decay_norm_and_bias=True,
            grad_clip_norm=None,
        ),
    ),
    pretrained="resnet50.safetensors",
)
