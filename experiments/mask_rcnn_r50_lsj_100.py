"""Mask R-CNN R50-FPN on COCO, 100 epochs of large-scale jitter and copy-paste, from random weights.

    jaxseg train experiments/mask_rcnn_r50_lsj_100.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 40.3 / 44.6 on val2017 or slightly more. These are Detectron2's results
without copy-paste (new_baselines, mask_rcnn_R_50_FPN_100ep_LSJ), which copy-paste improves
according to Ghiasi et al. 2021. Not measured here: no full run has been made. Hardware of the
reference: 64 GPUs, one image each, in half precision. On 16 devices use `--train.grad-accum-steps
4`; the statistics of batch norm are then those of a microbatch.

Differences from the reference: copy-paste, mask targets from crops, images without objects are
used too, biases are not decayed.
"""

import dataclasses

from jaxseg.data import Augmentation, CocoFolder, CopyPaste, DataConfig, ScaleJitter
from jaxseg.experiment import Experiment
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.mask_rcnn import DETECTRON2_R50_FPN

experiment = Experiment(
    model=dataclasses.replace(
        DETECTRON2_R50_FPN,
        backbone=ResNetConfig(depth=50, norm="sync_batch", stride_in_1x1=True),
        head_norm="sync_batch",
        rpn=dataclasses.replace(DETECTRON2_R50_FPN.rpn, num_convs=2),
        box=dataclasses.replace(DETECTRON2_R50_FPN.box, num_convs=4, num_fc=1),
        compute_dtype="bfloat16",
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((1024, 1024),),
        min_size=1024,
        max_size=1024,
        resize_backend="pillow",
        augmentation=Augmentation(lsj=ScaleJitter(0.1, 2.0), copy_paste=CopyPaste()),
        num_workers=8,
    ),
    train=TrainConfig(
        steps=184_375,  # 100 epochs of 64 images a step
        batch_size=64,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=500,
            warmup_factor=0.067,
            schedule="step",
            milestones=(163_889, 177_546),
            weight_decay=4e-5,
            grad_clip_norm=None,
        ),
    ),
)
