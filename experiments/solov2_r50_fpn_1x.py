"""SOLOv2 R50-FPN on COCO, 12 epochs ("1x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/solov2_r50_fpn_1x.py --workdir DIR --data.source.path COCO

Expected: mask AP 34.8 on val2017 (MMDetection, solov2_r50_fpn_1x_coco). Not measured here: no full
run has been made. Hardware of the reference: 8 GPUs, 2 images each.

Difference from the reference: images without objects are used too.
"""

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.solov2 import MMDET_SOLOV2_R50

EPOCH = 7330
"""Steps of an epoch of 16 images each."""

experiment = Experiment(
    model=MMDET_SOLOV2_R50,
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
            learning_rate=0.01,
            warmup_steps=500,
            schedule="step",
            milestones=(8 * EPOCH, 11 * EPOCH),
            decay_norm_and_bias=True,
            grad_clip_norm=35.0,
        ),
    ),
    pretrained="resnet50.safetensors",
)
