"""Mask R-CNN R50-FPN fine-tuned from ImageNet on fluorescence micrographs of cell nuclei.

    jaxseg train experiments/mask_rcnn_nuclei_r50.py --workdir DIR --data.source.path NUCLEI \\
        --pretrained RESNET50.npz

Data: a COCO-format folder with `mini_train.json`, `mini_val.json` and `images/`: 80 and 20
images of 256x256 pixels from the 2018 Data Science Bowl (BBBC038), about 27 nuclei each.
Weights: a Caffe-style ImageNet ResNet-50 (stride in the first 1x1, epsilon 1e-3, BGR means).

Expected: mask AP / AP50 on mini_val of 0.438 / 0.811 and 0.443 / 0.826 after 100 steps (two
seeds), 0.503 / 0.858 after 300 (MMDetection 3.3.0 with the same settings). Measured:
docs/benchmarks.md. Hardware: 2 CPU cores.
"""

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.pixels import PixelConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig

experiment = Experiment(
    model=MaskRCNNConfig(
        num_classes=1,
        pixels=PixelConfig((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "bgr"),
        backbone=ResNetConfig(depth=50, stride_in_1x1=True, norm_epsilon=1e-3, freeze_at=2),
        rpn=RPNConfig(
            # Twice the stride (eight times for COCO): most nuclei are 8 to 20 pixels across.
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            min_pos_iou=0.3,
            low_quality_overrides=True,
            smooth_l1_beta=0.0,
            post_nms_topk_test=300,
        ),
        roi_align=RoIAlignConfig(aligned=True, sampling_ratio=2),
        box=BoxHeadConfig(batch_size_per_image=64, smooth_l1_beta=0.0),
        mask=MaskHeadConfig(logit_init_std=None, mask_targets="binary"),
    ),
    data=DataConfig(
        source=CocoFolder("nuclei", train="mini_train", val="mini_val"),
        buckets=((256, 256),),
        max_objects=128,
    ),
    train=TrainConfig(
        steps=300,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.005,
            # Warm-up: at step t, (t + 1) / 50 of the learning rate.
            warmup_steps=49,
            warmup_factor=0.02,
            schedule="constant",
            decay_norm_and_bias=True,
            grad_clip_norm=35.0,
        ),
        log_every=10,
        checkpoint_every=100,
    ),
)
