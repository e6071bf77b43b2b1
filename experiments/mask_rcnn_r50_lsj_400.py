"""Mask R-CNN R50-FPN on COCO, 400 epochs of large-scale jitter and copy-paste, from random weights.

    jaxseg train experiments/mask_rcnn_r50_lsj_400.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 42.5 / 47.4 on val2017 or a little more: those are Detectron2's figures
without copy-paste (new_baselines, mask_rcnn_R_50_FPN_400ep_LSJ), to which Ghiasi et al. 2021 found
copy-paste to add. Not measured: nobody has run it to its end. Hardware of the reference: 64 GPUs,
one image each, in half precision; `--train.grad-accum-steps 4` makes it fit 16, batch norm's
statistics then being those of a microbatch. Where it differs from the reference: copy-paste, mask
targets from crops,
images without objects are seen too, biases are not decayed.
"""

import dataclasses

from jaxseg.data import Augmentation, CocoFolder, CopyPaste, DataConfig, ScaleJitter
from jaxseg.experiment import Experiment
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.published import DETECTRON2_R50_FPN

STEPS = 737_500
"""Of 64 images: 400 epochs."""

experiment = Experiment(
    model=dataclasses.replace(
        DETECTRON2_R50_FPN,
        backbone=ResNetConfig(depth=50, norm="sync_batch", stride_in_1x1=True),
        head_norm="sync_batch",
        rpn=dataclasses.replace(DETECTRON2_R50_FPN.rpn, num_convs=2),
        box=dataclasses.replace(DETECTRON2_R50_FPN.box, num_convs=4, num_fc=1),
        # Masks of the whole image would be 100 MB for each image of 100 objects.
        mask=MaskHeadConfig(),
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
        steps=STEPS,
        batch_size=64,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=500,
            warmup_factor=0.067,
            schedule="step",
            milestones=(655_556, 710_184),
            weight_decay=4e-5,
            grad_clip_norm=None,
        ),
    ),
)
