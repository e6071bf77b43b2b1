"""From a model's detections to instances of the original images, on the host.

Masks are brought to the original image one instance at a time and only within the
instance's box, so that memory does not grow with their number. A pixel belongs to an
instance where the interpolated probability is at least one half.
"""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.types import Detections, MaskFrame

THRESHOLD = 0.5


class Prediction(NamedTuple):
    """The n instances found in one image, in the pixels of the image as stored."""

    image_id: int
    boxes: np.ndarray  # float32 [n, 4], xyxy
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int [n]
    rles: list[dict[str, Any]]  # n masks, {"size": [h, w], "counts": bytes}


def to_predictions(
    detections: Detections,
    image_size: np.ndarray,
    original_size: np.ndarray,
    image_id: np.ndarray,
    valid: np.ndarray,
    *,
    bucket: tuple[int, int],
) -> list[Prediction]:
    """The predictions of a batch's valid images. Masks in the image's frame bring their own boxes.

    The other arguments are the fields of the
    `EvalBatch`, and `bucket` the `(height, width)` its images were padded to.
    """
    scores, labels = np.asarray(detections.scores), np.asarray(detections.labels)
    boxes, masks = np.asarray(detections.boxes), np.asarray(detections.masks)
    used = np.asarray(detections.valid)
    predictions = []
    for i in np.flatnonzero(valid):
        slots = np.flatnonzero(used[i])
        size, original = image_size[i].tolist(), original_size[i].tolist()
        limits = np.asarray([original[1], original[0]] * 2, np.float32)
        scale = limits / np.asarray([size[1], size[0]] * 2, np.float32)
        found = np.clip(boxes[i, slots] * scale, 0, limits)
        if detections.mask_frame is MaskFrame.GRID_SAMPLE:
            pairs = zip(masks[i, slots], found, strict=True)
            rles = [box_mask_rle(mask, box, original) for mask, box in pairs]
        elif detections.mask_frame is MaskFrame.INTEGER:
            pairs = zip(masks[i, slots], found, strict=True)
            rles = [whole_pixel_mask_rle(mask, box, original) for mask, box in pairs]
        else:
            rles = [image_mask_rle(mask, bucket, size, original) for mask in masks[i, slots]]
            found = np.asarray([tight_box(rle) for rle in rles], np.float32).reshape(-1, 4)
        predictions.append(
            Prediction(int(image_id[i]), found, scores[i, slots], labels[i, slots], rles)
        )
    return predictions


def box_mask_rle(mask: np.ndarray, box: np.ndarray, size: list[int]) -> dict[str, Any]:
    """RLE of a mask in its box's frame on an image of `size` `(height, width)`.

    The mask is sampled at pixel centres, fading to zero within half a cell beyond its rim
    (as `jaxseg.ops.paste_masks` with `integer_boxes=False`).
    """
    height, width = size
    x1, y1, x2, y2 = (float(v) for v in box)
    rows, weights_y = _paste_weights(y1, y2, mask.shape[0], height)
    columns, weights_x = _paste_weights(x1, x2, mask.shape[1], width)
    inside = weights_y @ mask @ weights_x.T >= THRESHOLD
    bitmap = np.zeros((height, width), np.uint8, order="F")
    bitmap[rows, columns] = inside
    return mask_api.encode(bitmap)


def whole_pixel_mask_rle(mask: np.ndarray, box: np.ndarray, size: list[int]) -> dict[str, Any]:
    """RLE of a mask over its box grown by one cell and cut to whole pixels, as torchvision's
    (`jaxseg.ops.paste_masks` with `integer_boxes=True`)."""
    height, width = size
    bordered = np.pad(mask, 1).astype(np.float32)
    grown = np.float32(bordered.shape[0] / mask.shape[0])
    center, half = (box[:2] + box[2:]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    x1, y1 = np.trunc(center - half * grown).astype(int).tolist()
    x2, y2 = np.trunc(center + half * grown).astype(int).tolist()
    across, down = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    bitmap = np.zeros((height, width), np.uint8, order="F")
    if x1 >= width or y1 >= height or x1 + across <= 0 or y1 + down <= 0:
        return mask_api.encode(bitmap)
    pasted = cv2.resize(bordered, (across, down), interpolation=cv2.INTER_LINEAR) >= THRESHOLD
    top, bottom = np.clip([y1, y1 + down], 0, height)
    left, right = np.clip([x1, x1 + across], 0, width)
    bitmap[top:bottom, left:right] = pasted[top - y1 : bottom - y1, left - x1 : right - x1]
    return mask_api.encode(bitmap)


def _paste_weights(start: float, end: float, cells: int, size: int) -> tuple[slice, np.ndarray]:
    """The pixels that a mask axis touches, and each one's weights of the cells."""
    if end <= start:
        return slice(0, 0), np.zeros((0, cells), np.float32)
    margin = 0.5 * (end - start) / cells
    last = max(min(math.ceil(end + margin), size), 0)
    first = min(max(math.floor(start - margin), 0), last)
    pixel = np.arange(first, last) + 0.5
    position = (pixel - start) * (cells / (end - start)) - 0.5
    weights = np.maximum(1 - np.abs(position[:, None] - np.arange(cells)[None, :]), 0)
    return slice(first, last), weights.astype(np.float32)


def tight_box(rle: dict[str, Any]) -> list[float]:
    """The `xyxy` box of a mask's pixels; zeros where there are none."""
    x, y, width, height = mask_api.toBbox(rle).tolist()
    return [x, y, x + width, y + height]


def image_mask_rle(
    mask: np.ndarray, bucket: tuple[int, int], size: list[int], original: list[int]
) -> dict[str, Any]:
    """RLE of a mask over the padded canvas: upsampled, cut to the image, resized to it."""
    full = cv2.resize(mask, (bucket[1], bucket[0]), interpolation=cv2.INTER_LINEAR)
    image = full[: size[0], : size[1]]
    resized = cv2.resize(image, (original[1], original[0]), interpolation=cv2.INTER_LINEAR)
    return mask_api.encode(np.asfortranarray(resized >= THRESHOLD, np.uint8))
