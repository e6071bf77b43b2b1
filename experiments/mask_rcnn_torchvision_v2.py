"""Torchvision's improved Mask R-CNN, `maskrcnn_resnet50_fpn_v2`, on COCO, 100 epochs.

    jaxseg weights import resnet50-11ad3fa6.pth --model resnet50 --out resnet50.safetensors
    jaxseg train experiments/mask_rcnn_torchvision_v2.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 41.8 / 47.4 on val2017 (torchvision, weights COCO_V1 of the v2). Not
measured here: no full run has been made.

Torchvision does not state its recipe in full. The model is exactly torchvision's, except for mask
targets from crops and the 80 classes that exist. The training follows Li et al. 2021 (arXiv
2111.11429), on which that recipe is based, as far as the paper states it: large-scale jitter at
1024 pixels, 100 epochs of 64 images a step, AdamW, cosine decay. Norms and biases are not decayed.
Hardware of the reference: 64 GPUs; on 16 devices use `--train.grad-accum-steps 4`.
"""

import dataclasses

from jaxseg.data import Augmentation, CocoFolder, DataConfig, ScaleJitter
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.zoo.mask_rcnn import TORCHVISION_R50_FPN_V2

experiment = Experiment(
    model=dataclasses.replace(TORCHVISION_R50_FPN_V2, num_classes=80, compute_dtype="bfloat16"),
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
        steps=184_375,  # 100 epochs of 64 images a step
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
