"""A small Mask R-CNN on COCO photographs: shows that the way from data to AP works.

Reproduces no published figure. Data: COCO's own layout (80 classes, crowds), any subset.
    jaxseg train experiments/mask_rcnn_coco_small.py --workdir DIR --data.source.path COCO

Hardware: 2 CPU cores. Time: about 5 minutes for 100 steps; no AP is expected of so few.
"""

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig

experiment = Experiment(
    model=MaskRCNNConfig(
        num_classes=80,
        backbone=ResNetConfig(depth=18, width=32, norm="batch"),
        fpn_channels=64,
        head_norm="batch",
        rpn=RPNConfig(
            anchor_sizes=(16.0, 32.0, 64.0, 128.0, 256.0),
            train_candidates=400,
            test_candidates=500,
            train_proposals=300,
            test_proposals=300,
        ),
        box=BoxHeadConfig(hidden=256, samples=64, nms_candidates=1000),
        mask=MaskHeadConfig(convs=2, channels=64),
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        canvases=((320, 320),),
        resize=(256, 320),
    ),
    train=TrainConfig(
        steps=100,
        batch_size=4,
        optimizer=OptimizerConfig(
            kind="adamw", learning_rate=5e-4, warmup_steps=50, weight_decay=1e-2
        ),
        log_every=10,
        checkpoint_every=50,
    ),
)
