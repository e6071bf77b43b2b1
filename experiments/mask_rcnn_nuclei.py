"""Mask R-CNN on fluorescence micrographs of cell nuclei, from random weights.

    jaxseg train experiments/mask_rcnn_nuclei.py --workdir DIR --data.source.path NUCLEI

Data: a COCO-format folder with `mini_train.json`, `mini_val.json` and `images/`: 80 and 20
images of 256x256 pixels from the 2018 Data Science Bowl (BBBC038), about 27 nuclei each.

Expected: mask AP50 of at least 0.75 on mini_val (measured: docs/benchmarks.md). Hardware: 2 CPU
cores. Time: under 30 minutes.
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

MODEL = MaskRCNNConfig(
    num_classes=1,
    backbone=ResNetConfig(depth=18, width=32, norm="sync_batch"),
    fpn_channels=64,
    head_norm="sync_batch",
    rpn=RPNConfig(
        # Most nuclei are 8 to 20 pixels across.
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
        batch_size_per_image=128,
        pre_nms_topk_train=400,
        pre_nms_topk_test=500,
        post_nms_topk_train=200,
        post_nms_topk_test=300,
    ),
    box=BoxHeadConfig(fc_dim=256, batch_size_per_image=64, pre_nms_topk=500),
    mask=MaskHeadConfig(num_convs=4, conv_dim=64, gt_mask_size=56),
)

experiment = Experiment(
    model=MODEL,
    data=DataConfig(
        source=CocoFolder("nuclei", train="mini_train", val="mini_val"),
        buckets=((256, 256),),
        max_objects=128,
    ),
    train=TrainConfig(
        steps=1200,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2
        ),
        checkpoint_every=200,
    ),
)
