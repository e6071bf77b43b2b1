"""A small Mask R-CNN on COCO photographs, to check every stage from data to AP.

    jaxseg train experiments/mask_rcnn_coco_small.py --workdir DIR --data.source.path COCO

Data: COCO's own layout (80 classes, crowds), any subset.

Reproduces no published result; an AP above 0 is not expected of 100 steps. Hardware: 2 CPU cores.
Time: about 5 minutes for 100 steps.
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
        backbone=ResNetConfig(depth=18, width=32, norm="sync_batch"),
        fpn_channels=64,
        head_norm="sync_batch",
        rpn=RPNConfig(
            anchor_sizes=(16.0, 32.0, 64.0, 128.0, 256.0),
            pre_nms_topk_train=400,
            pre_nms_topk_test=500,
            post_nms_topk_train=300,
            post_nms_topk_test=300,
        ),
        box=BoxHeadConfig(fc_dim=256, batch_size_per_image=64, pre_nms_topk=1000),
        mask=MaskHeadConfig(num_convs=2, conv_dim=64),
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((320, 320),),
        min_size=256,
        max_size=320,
    ),
    train=TrainConfig(
        steps=100,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=5e-4, warmup_steps=50, weight_decay=1e-2
        ),
        log_every=10,
        checkpoint_every=50,
    ),
)
