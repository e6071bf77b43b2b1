"""SOLOv2 R50-FPN on COCO, 36 epochs ("3x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --arch resnet50 --out resnet50.safetensors
    jaxseg train experiments/solov2_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask AP 37.5 on val2017 (MMDetection, solov2_r50_fpn_ms-3x_coco). Not measured: nobody has
run it to its end. Hardware of the reference: 8 GPUs, 2 images each. Where it differs from the
reference: images without objects are seen too.
"""

from jaxseg.data import Augmentation, CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.published import MMDET_SOLOV2_R50

EPOCH = 7330
"""Steps of 16 images."""

experiment = Experiment(
    model=MMDET_SOLOV2_R50,
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((800, 1344), (1344, 800)),
        min_size=800,
        max_size=1333,
        augmentation=Augmentation(min_sizes=(640, 672, 704, 736, 768, 800)),
        num_workers=8,
    ),
    train=TrainConfig(
        steps=36 * EPOCH,
        batch_size=16,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.01,
            warmup_steps=500,
            warmup_factor=1 / 3,
            schedule="step",
            milestones=(27 * EPOCH, 33 * EPOCH),
            decay_norm_and_bias=True,
            grad_clip_norm=35.0,
        ),
    ),
    pretrained="resnet50.safetensors",
)
