"""`jaxseg demo`: training and evaluation on generated images, from random weights.

Expected: mask AP (0.50:0.95) of at least 0.50 with Mask R-CNN and 0.30 with SOLOv2, on 200 images
that are not in the training split. Hardware: 2 CPU cores. Time: about 8 and 14 minutes.
"""

import dataclasses
import pathlib
import time

from jaxseg.commands import eval as eval_command
from jaxseg.commands import train as train_command
from jaxseg.data import DataConfig, Shapes
from jaxseg.experiment import Experiment
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig
from jaxseg.training.preemption import PreemptionNotice

SMALL_MASK_RCNN = MaskRCNNConfig(
    num_classes=5,
    backbone=ResNetConfig(depth=18, width=32, norm="sync_batch"),
    fpn_channels=64,
    head_norm="sync_batch",
    rpn=RPNConfig(
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 128.0),
        batch_size_per_image=64,
        pre_nms_topk_train=200,
        pre_nms_topk_test=200,
        post_nms_topk_train=100,
        post_nms_topk_test=100,
    ),
    box=BoxHeadConfig(
        fc_dim=256, batch_size_per_image=32, detections_per_image=30, pre_nms_topk=300
    ),
    mask=MaskHeadConfig(num_convs=2, conv_dim=64, gt_mask_size=56),
)

MASK_RCNN = Experiment(
    model=SMALL_MASK_RCNN,
    data=DataConfig(source=Shapes(), buckets=((128, 128),), max_objects=16),
    train=TrainConfig(
        steps=1800,
        batch_size=8,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2
        ),
        checkpoint_every=300,
    ),
)

SMALL_SOLOV2 = SOLOv2Config(
    num_classes=5,
    backbone=ResNetConfig(depth=18, width=24, norm="sync_batch"),
    fpn_channels=48,
    fpn_norm="sync_batch",
    # In the enlarged images, shapes are 10 to 130 pixels across, half of them 24 to 64.
    num_grids=(28, 24, 16, 10, 6),
    scale_ranges=((1.0, 40.0), (28.0, 64.0), (48.0, 96.0), (80.0, 144.0), (120.0, 512.0)),
    pos_scale=0.3,
    num_head_convs=3,
    head_channels=48,
    norm_groups=16,
    mask_feat_channels=32,
    mask_out_channels=32,
    max_positives=96,
    # The paper's weight is 3. With random initial weights, the gradient of the masks then dominates
    # that of the classes, which are learned an order of magnitude later.
    mask_loss_weight=0.3,
    pre_nms_topk=200,
    min_mask_area=(2, 2, 2, 2, 2),
    detections_per_image=30,
)

SOLOV2 = dataclasses.replace(
    MASK_RCNN,
    model=SMALL_SOLOV2,
    # Classes are predicted on maps of stride 8, where a shape should be a few cells across.
    data=dataclasses.replace(MASK_RCNN.data, buckets=((256, 256),), min_size=256, max_size=256),
    # Twice the steps with half the images take the same time and reach a higher AP.
    train=dataclasses.replace(
        MASK_RCNN.train,
        steps=2900,
        batch_size=4,
        optimizer=dataclasses.replace(MASK_RCNN.train.optimizer, warmup_steps=200),
    ),
)

EXPERIMENTS = {"mask_rcnn": MASK_RCNN, "solov2": SOLOV2}


def run_demo(
    out: pathlib.Path, model: str = "mask_rcnn", notice: PreemptionNotice | None = None
) -> None:
    """Train one of `EXPERIMENTS` in `out/run-<model>`; write metrics and overlays to `out`.

    Raises Preempted after `notice`, the notice to stop, with the training's state saved.
    """
    started, workdir = time.monotonic(), out / f"run-{model}"
    train_command.train(EXPERIMENTS[model], workdir, notice)
    trained = time.monotonic()
    eval_command.evaluate(workdir, out, notice=notice)
    done = time.monotonic()
    print(
        f"trained in {trained - started:.0f} s, evaluated in {done - trained:.0f} s; "
        f"pictures are in {out / 'overlays'}"
    )
