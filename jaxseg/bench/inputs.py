"""Random inputs of known sizes, the same for every side and every run."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from jaxseg.bench.settings import Settings
from jaxseg.model import Model
from jaxseg.types import Batch, BoxCrops, ImageMasks

STRIDES = (4, 8, 16, 32)
"""Levels that RoIs are pooled from."""
ANCHOR_STRIDES, ANCHOR_SIZES = (*STRIDES, 64), (32, 64, 128, 256, 512)
MASK_SIDE = 28
"""Side of a predicted mask and of a mask target."""


def random_boxes(
    rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]
) -> np.ndarray:
    """Return boxes (float32 `[*shape, 4]`) from a fiftieth to a half of the image's sides."""
    limit = np.asarray([size[1], size[0]], np.float32)
    sides = np.exp(rng.uniform(np.log(0.02), np.log(0.5), (*shape, 2))) * limit
    corner = rng.uniform(0, 1, (*shape, 2)) * (limit - sides)
    return np.concatenate([corner, corner + sides], -1).astype(np.float32)


def crowded_boxes(
    rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int], objects: int
) -> np.ndarray:
    """Return boxes around a few objects, most of which suppress others, as proposals do."""
    centers = random_boxes(rng, (objects,), size)
    chosen = centers[rng.integers(0, objects, shape)]
    sides = np.tile(chosen[..., 2:] - chosen[..., :2], 2)
    moved = chosen + rng.normal(0, 0.12, chosen.shape) * sides
    low, high = (
        np.minimum(moved[..., :2], moved[..., 2:]),
        np.maximum(moved[..., :2], moved[..., 2:]),
    )
    limit = np.asarray([size[1], size[0]])
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], -1).astype(np.float32)


def random_pyramid(rng: np.random.Generator, settings: Settings) -> dict[int, np.ndarray]:
    """Return maps (float32 `[B, h, w, C]`) by stride."""
    height, width = settings.size
    return {
        stride: rng.standard_normal(
            (settings.batch, height // stride, width // stride, settings.channels), np.float32
        )
        for stride in STRIDES
    }


def all_anchors(size: tuple[int, int]) -> np.ndarray:
    """Return the anchors (float32 `[K, 4]`) of P2 to P6, three a cell."""
    levels = [
        ops.grid_anchors(
            ops.cell_anchors((side,), (0.5, 1.0, 2.0), rounded=True),
            (-(-size[0] // stride), -(-size[1] // stride)),
            stride,
        )
        for stride, side in zip(ANCHOR_STRIDES, ANCHOR_SIZES, strict=True)
    ]
    return np.asarray(jnp.concatenate(levels))


def disc_masks(boxes: np.ndarray, size: tuple[int, int], stride: int = 1) -> np.ndarray:
    """Return the mask (bool `[*shape, H / stride, W / stride]`) of the ellipse in each box."""
    height, width = size[0] // stride, size[1] // stride
    x1, y1, x2, y2 = (boxes[..., i, None, None] / stride for i in range(4))
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5
    x = np.arange(width, dtype=np.float32)[None] + 0.5
    vertical = (2 * y - y1 - y2) / np.maximum(y2 - y1, 1e-3)
    horizontal = (2 * x - x1 - x2) / np.maximum(x2 - x1, 1e-3)
    return vertical**2 + horizontal**2 <= 1


def random_batch(
    model: Model, images: int, size: tuple[int, int], objects: int, slots: int, num_classes: int
) -> Batch:
    """Return a training batch (NumPy) of noise, whose objects are ellipses in random boxes."""
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, (images, slots), size)
    valid = np.broadcast_to(np.arange(slots) < objects, (images, slots))
    boxes[~valid] = 0
    masks = _packed_masks(model.targets.masks, boxes, size, objects)
    fields: dict[str, Any] = {
        "images": rng.integers(0, 256, (images, *size, 3), np.uint8),
        "image_size": np.tile(np.asarray(size, np.int32), (images, 1)),
        "boxes": boxes,
        "labels": rng.integers(0, num_classes, (images, slots)).astype(np.int32),
        "valid": valid,
        "index": np.arange(images, dtype=np.int32),
        "masks": masks,
        "centers": (boxes[..., :2] + boxes[..., 2:]) / 2 - 0.5 if model.targets.centers else None,
    }
    if model.targets.semantic_stride is not None:  # the labels of objects are among the map's
        shape = ImageMasks(model.targets.semantic_stride).shape(size)
        fields["semantic"] = rng.integers(0, num_classes, (images, *shape), np.uint8)
    return Batch(**fields)


def _packed_masks(
    kind: BoxCrops | ImageMasks | None, boxes: np.ndarray, size: tuple[int, int], objects: int
) -> np.ndarray | None:
    """Return the masks that a model learns from as bits, zeros in unused slots."""
    if kind is None:
        return None
    height, width = kind.shape(size)
    masks = np.zeros((*boxes.shape[:2], height, -(-width // 8)), np.uint8)
    used = boxes[:, :objects]
    if isinstance(kind, BoxCrops):  # each crop covers its own box
        used = np.broadcast_to(np.asarray([0, 0, width, height], np.float32), used.shape)
        bits = disc_masks(used, (height, width))
    else:
        bits = disc_masks(used, size, kind.stride)
    masks[:, :objects] = np.packbits(bits, axis=-1)
    return masks
