"""From an example to arrays of fixed shapes: flip, resize, masks in the model's frame.

The terms are those of `jaxseg.data.resize`.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.config import DataConfig
from jaxseg.data.resize import Resampling, fit_image
from jaxseg.data.source import RLE, Example, Source
from jaxseg.types import MaskFrame, MaskSpec


class Sample(NamedTuple):
    """One image of a training batch; the fields are those of `jaxseg.types.Batch`, masks not
    packed."""

    images: np.ndarray  # uint8 [H, W, 3], or float32 from 0 to 255
    image_size: np.ndarray  # int32 [2]
    boxes: np.ndarray  # float32 [N, 4]
    labels: np.ndarray  # int32 [N]
    masks: np.ndarray  # bool [N, h, w]
    valid: np.ndarray  # bool [N]
    centers: np.ndarray | None  # float32 [N, 2]


def flip(example: Example) -> Example:
    """The mirror image, left for right; masks are flipped where they are used."""
    width = example.image.shape[1]
    boxes = example.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - example.boxes[:, 2], width - example.boxes[:, 0]
    return example._replace(image=example.image[:, ::-1], boxes=boxes)


def train_sample(
    source: Source,
    index: int,
    rng: np.random.Generator,
    *,
    config: DataConfig,
    canvas: tuple[int, int],
    needs: MaskSpec,
) -> Sample:
    """Image `index` of a source, changed at random as `config.augmentation` says."""
    return make_sample(
        source[index],
        canvas=canvas,
        resize=config.resize,
        max_objects=config.max_objects,
        needs=needs,
        flipped=bool(rng.random() < config.augmentation.flip),
        resampling=config.resampling,
    )


def make_sample(
    example: Example,
    *,
    canvas: tuple[int, int],
    resize: tuple[int, int] | None,
    max_objects: int,
    needs: MaskSpec,
    flipped: bool,
    resampling: Resampling = "opencv",
) -> Sample:
    """The example as fixed shapes.

    Crowds are left out, and objects with empty masks where the model needs centres of masks; of
    more than `max_objects` objects the largest stay.
    """
    known = ~example.crowd
    if needs.centers:
        known &= np.asarray([mask_api.area(rle) > 0 for rle in example.rles], bool)
    chosen = _largest(example.boxes, np.flatnonzero(known), max_objects)
    seen = flip(example) if flipped else example
    image, (height, width) = fit_image(np.ascontiguousarray(seen.image), canvas, resize, resampling)
    old_height, old_width = example.image.shape[:2]
    factors = np.asarray([width / old_width, height / old_height] * 2, np.float32)

    rasterize = _RASTERIZERS[needs.frame]
    shape = needs.shape(canvas)
    boxes = np.zeros((max_objects, 4), np.float32)
    labels = np.zeros(max_objects, np.int32)
    masks = np.zeros((max_objects, *shape), bool)
    centers = np.zeros((max_objects, 2), np.float32) if needs.centers else None
    for slot, i in enumerate(chosen):
        boxes[slot] = seen.boxes[i] * factors
        labels[slot] = example.labels[i]
        bitmap = _decode(example.rles[i], flipped)
        masks[slot] = rasterize(bitmap, seen.boxes[i], (height, width), canvas, needs.size)
        if centers is not None:
            centers[slot] = (center_of_mass(bitmap) + 0.5) * factors[:2] - 0.5
    return Sample(
        images=image,
        image_size=np.asarray([height, width], np.int32),
        boxes=boxes,
        labels=labels,
        masks=masks,
        valid=np.arange(max_objects) < len(chosen),
        centers=centers,
    )


def _largest(boxes: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
    """The candidates if they are few enough, else the `count` with the largest boxes."""
    if len(candidates) <= count:
        return candidates
    sides = boxes[candidates, 2:] - boxes[candidates, :2]
    order = np.argsort(-sides.prod(1), kind="stable")[:count]
    return np.sort(candidates[order])


def _decode(rle: RLE, flipped: bool) -> np.ndarray:
    """The mask as uint8 0 and 255."""
    bitmap = mask_api.decode(rle) * np.uint8(255)
    return np.ascontiguousarray(bitmap[:, ::-1] if flipped else bitmap)


def center_of_mass(bitmap: np.ndarray) -> np.ndarray:
    """`(x, y)` in pixel indices: the first pixel's is 0. The mask must not be empty."""
    moments = cv2.moments(bitmap, binaryImage=True)
    return np.asarray([moments["m10"], moments["m01"]]) / moments["m00"]


def crop_to_box(
    bitmap: np.ndarray,
    box: np.ndarray,
    scaled: tuple[int, int],
    canvas: tuple[int, int],
    size: int,
) -> np.ndarray:
    """The mask at `size x size` points of its box, bilinear, at least half covered.

    It is taken from the bitmap as annotated, so that resizing the image costs it nothing.
    """
    del scaled, canvas
    x1, y1, x2, y2 = box.tolist()
    step_x, step_y = (x2 - x1) / size, (y2 - y1) / size
    to_bitmap = np.asarray(
        [[step_x, 0, x1 + 0.5 * step_x - 0.5], [0, step_y, y1 + 0.5 * step_y - 0.5]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(bitmap, to_bitmap, (size, size), flags=flags) >= 128


def whole_image(
    bitmap: np.ndarray,
    box: np.ndarray,
    scaled: tuple[int, int],
    canvas: tuple[int, int],
    stride: int,
) -> np.ndarray:
    """The mask resized with its image to the nearest pixel, as the references do, on the canvas;
    then at a stride, bilinear and rounded, as SOLO's authors do."""
    del box
    padded = np.zeros(canvas, np.uint8)
    padded[: scaled[0], : scaled[1]] = cv2.resize(
        bitmap, scaled[::-1], interpolation=cv2.INTER_NEAREST
    )
    if stride == 1:
        return padded > 0
    size = canvas[1] // stride, canvas[0] // stride
    return cv2.resize(padded, size, interpolation=cv2.INTER_LINEAR) >= 128


_Rasterizer = Callable[[np.ndarray, np.ndarray, tuple[int, int], tuple[int, int], int], np.ndarray]
_RASTERIZERS: dict[MaskFrame, _Rasterizer] = {
    MaskFrame.BOX: crop_to_box,
    MaskFrame.IMAGE: whole_image,
}
