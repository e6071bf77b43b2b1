"""A Mask R-CNN small enough to compile in seconds, and batches for it."""

import numpy as np

from jaxseg.models.box_head import BoxHeadConfig
from jaxseg.models.mask_head import MaskHeadConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.rpn import RPNConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import Batch

SLOTS = 6
MASK_SIZE = 16


def tiny_config(norm="group") -> MaskRCNNConfig:
    return MaskRCNNConfig(
        num_classes=3,
        backbone=ResNetConfig(depth=18, width=8, norm=norm),
        fpn_channels=16,
        head_norm=norm,
        rpn=RPNConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 48.0, 64.0),
            samples=256,
            train_candidates=24,
            test_candidates=24,
            train_proposals=20,
            test_proposals=20,
        ),
        box=BoxHeadConfig(
            hidden=32, samples=32, detections=8, nms_candidates=40, score_threshold=0.0
        ),
        mask=MaskHeadConfig(convs=1, channels=16, pool_size=7, crop_size=MASK_SIZE),
    )


def make_batch(sizes, objects, canvas=(64, 64), slots=SLOTS, seed=0):
    """Random images of true `sizes` with `objects[i]` objects each; the same image and
    objects for the same seed and size whatever the canvas and the slots."""
    count = len(sizes)
    images = np.zeros((count, *canvas, 3), np.uint8)
    boxes = np.zeros((count, slots, 4), np.float32)
    labels = np.zeros((count, slots), np.int32)
    masks = np.zeros((count, slots, MASK_SIZE, MASK_SIZE), bool)
    for i, ((height, width), number) in enumerate(zip(sizes, objects, strict=True)):
        rng = np.random.default_rng([seed, i])
        images[i, :height, :width] = rng.integers(0, 256, (height, width, 3))
        corner = rng.uniform(0, 0.5, (number, 2))
        side = rng.uniform(0.2, 0.5, (number, 2))
        scale = np.asarray([width, height] * 2)
        boxes[i, :number] = np.concatenate([corner, corner + side], 1) * scale
        labels[i, :number] = rng.integers(0, 3, number)
        masks[i, :number] = rng.random((number, MASK_SIZE, MASK_SIZE)) < 0.7
    valid = np.arange(slots)[None, :] < np.asarray(objects)[:, None]
    return Batch(
        images=images,
        image_size=np.asarray(sizes, np.int32),
        boxes=boxes,
        labels=labels,
        masks=masks,
        valid=valid,
        place=np.arange(count, dtype=np.int32),
    )
