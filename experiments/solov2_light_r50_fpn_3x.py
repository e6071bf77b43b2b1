"""SOLOv2 Light R50-FPN at 448 pixels on COCO, 36 epochs ("3x"), as MMDetection trains it.

    jaxseg weights import resnet50-0676ba61.pth --arch resnet50 --out resnet50.safetensors
    jaxseg train experiments/solov2_light_r50_fpn_3x.py --workdir DIR --data.source.path COCO

Expected: mask AP 33.7 on val2017 (MMDetection, solov2-light_r50_fpn_ms-3x_coco). Not measured:
nobody has run it to its end. Hardware of the reference: 8 GPUs, 2 images each. Where it differs
from the reference: shorter sides of 352 to 448 (theirs go to 512), images without objects are seen
too.
"""

from jaxseg.data import Augmentation, CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.published import MMDET_SOLOV2_LIGHT_R50

EPOCH = 7330
"""Steps of 16 images."""

experiment = Experiment(
    model=MMDET_SOLOV2_LIGHT_R50,
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((448, 768), (768, 448)),
        min_size=448,
        max_size=768,
        augmentation=Augmentation(min_sizes=(352, 384, 416, 448)),
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
