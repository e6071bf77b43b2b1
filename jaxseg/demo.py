"""The demo: a model learns drawn shapes from random weights in minutes, on any machine.

Reproduces: mask AP (0.50:0.95) of at least 0.50 with Mask R-CNN, TODO with SOLOv2, on 200 unseen
scenes. Hardware: 2 CPU cores. Time: about 8 minutes.
"""

import dataclasses
import pathlib
import time

from jaxseg import jobs
from jaxseg.data import DataConfig, Shapes
from jaxseg.experiment import Experiment
from jaxseg.models.box_head import BoxHeadConfig
from jaxseg.models.mask_head import MaskHeadConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.rpn import RPNConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig

SMALL_MASK_RCNN = MaskRCNNConfig(
    num_classes=5,
    backbone=ResNetConfig(depth=18, width=32, norm="batch"),
    fpn_channels=64,
    head_norm="batch",
    rpn=RPNConfig(
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 128.0),
        samples=64,
        train_candidates=200,
        test_candidates=200,
        train_proposals=100,
        test_proposals=100,
    ),
    box=BoxHeadConfig(hidden=256, samples=32, detections=30, nms_candidates=300),
    mask=MaskHeadConfig(convs=2, channels=64, crop_size=56),
)

MASK_RCNN = Experiment(
    model=SMALL_MASK_RCNN,
    data=DataConfig(source=Shapes(), canvas=(128, 128), resize=None, max_objects=16),
    train=TrainConfig(
        steps=1800,
        batch_size=8,
        optimizer=OptimizerConfig(
            kind="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2
        ),
        checkpoint_every=300,
    ),
)

SMALL_SOLOV2 = SOLOv2Config(
    num_classes=5,
    backbone=ResNetConfig(depth=18, width=32, norm="batch"),
    fpn_channels=64,
    # Shapes are 5 to 65 pixels across, half of them 12 to 32.
    grids=(24, 20, 14, 10, 6),
    scale_ranges=((1.0, 16.0), (10.0, 24.0), (16.0, 36.0), (28.0, 56.0), (44.0, 256.0)),
    head_convs=2,
    head_channels=64,
    mask_hidden=64,
    mask_channels=64,
    pairs=96,
    candidates=200,
    min_cells=(1, 1, 1, 1, 1),
    detections=30,
)

SOLOV2 = dataclasses.replace(
    MASK_RCNN,
    model=SMALL_SOLOV2,
    train=dataclasses.replace(MASK_RCNN.train, steps=2000),
)

EXPERIMENTS = {"mask_rcnn": MASK_RCNN, "solov2": SOLOV2}


def run_demo(out: pathlib.Path, model: str = "mask_rcnn") -> None:
    """Trains one of `EXPERIMENTS` in `out/run`; writes `out/metrics.json` and `out/overlays`."""
    started = time.monotonic()
    jobs.train(EXPERIMENTS[model], out / "run")
    trained = time.monotonic()
    jobs.evaluate(out / "run", out)
    done = time.monotonic()
    print(
        f"trained in {trained - started:.0f} s, evaluated in {done - trained:.0f} s; "
        f"look at {out / 'overlays'}"
    )
