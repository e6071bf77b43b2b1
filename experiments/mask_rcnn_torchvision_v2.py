"""Torchvision's improved Mask R-CNN, `maskrcnn_resnet50_fpn_v2`, on COCO.

    jaxseg weights import resnet50-11ad3fa6.pth --arch resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_torchvision_v2.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 41.8 / 47.4 on val2017 (torchvision, weights COCO_V1 of the v2). Not
measured: nobody has run it to its end. Torchvision does not state this recipe in full: the model
is theirs exactly, the training is that of Li et al. 2021 (arXiv 2111.11429), on which it is built,
as far as they tell: large-scale jitter at 1024 pixels, 100 epochs of 64 images, AdamW, cosine
decay. Hardware of the reference: 64 GPUs; `--train.grad-accum-steps 4` makes it fit 16. Neither
norms nor biases are decayed.
"""

import dataclasses

from jaxseg.data import Augmentation, CocoFolder, DataConfig, ScaleJitter
from jaxseg.experiment import Experiment
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.published import TORCHVISION_R50_FPN_V2

experiment = Experiment(
    model=dataclasses.replace(
        TORCHVISION_R50_FPN_V2,
        num_classes=80,
        # Masks of the whole image would be 100 MB for each image of 100 objects.
        mask=MaskHeadConfig(logit_init_std=None, paste="integer"),
        compute_dtype="bfloat16",
    ),
    data=DataConfig(
        source=CocoFolder("coco", train="train2017", val="val2017"),
        buckets=((1024, 1024),),
        min_size=1024,
        max_size=1024,
        resize_backend="torch",
        augmentation=Augmentation(lsj=ScaleJitter(0.1, 2.0)),
        num_workers=8,
    ),
    train=TrainConfig(
        steps=184_375,
        batch_size=64,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=8e-5,
            warmup_steps=460,
            schedule="cosine",
            weight_decay=0.1,
            grad_clip_norm=None,
        ),
    ),
    pretrained="resnet50.safetensors",
)
