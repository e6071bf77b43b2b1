"""Mask R-CNN R50-FPN on COCO, 12 epochs ("1x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_r50_fpn_1x.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 34.7 / 38.2 on val2017 (MMDetection, mask-rcnn_r50_fpn_1x_coco). Not
measured here: no full run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Differences from the reference: mask targets from crops, images without objects are used too.
"""

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.mask_rcnn import MMDET_R50_FPN

EPOCH = 7330
"""Steps of an epoch of 16 images each."""

experiment = Experiment(
    model=MMDET_R50_FPN,
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((800, 1344), (1344, 800)),
        min_size=800,
        max_size=1333,
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
