"""Turn a model's detections into instances of the original images, on the host.

Masks are brought to the original image one instance at a time and only within the instance's box,
so that memory does not grow with their number. A pixel belongs to an instance where the
interpolated probability is at least one half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as mask_api

from jaxseg.data.masks.regions import mask_bounds
from jaxseg.data.masks.rle import add_to_ends
from jaxseg.data.panoptic import PanopticMap
from jaxseg.data.source import RLE
from jaxseg.ops.bilinear import Paste, paste_span, paste_weights
from jaxseg.types import Detections, EvalBatch, MaskFrame

THRESHOLD = 0.5
"""Least probability of a mask's pixels."""

Size = tuple[int, int]
"""`(height, width)`."""


class Prediction(NamedTuple):
    """The n instances found in one image, best first, in pixels of the original image."""

    image_id: int
    boxes: np.ndarray  # float32 [n, 4], xyxy
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int [n]
    rles: list[RLE] | None  # n masks of the image's size; None from a model without masks
    panoptic: PanopticMap | None = None

    def select(self, index: np.ndarray) -> "Prediction":
        """Return the instances at the positions `index` (int `[m]`)."""
        return Prediction(
            self.image_id,
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            None if self.rles is None else [self.rles[i] for i in index],
            self.panoptic,
        )


def to_predictions(detections: Detections, batch: EvalBatch) -> list[Prediction]:
    """Return the predictions of a batch's valid images.

    Boxes are scaled to the original images; where masks are in the image's frame, boxes are the
    tight boxes of the masks.
    """
    detections = jax.tree.map(np.asarray, detections)
    return [_image_prediction(detections, batch, i) for i in np.flatnonzero(batch.valid).tolist()]


def _image_prediction(detections: Detections, batch: EvalBatch, i: int) -> Prediction:
    slots = np.flatnonzero(detections.valid[i])
    height, width = batch.image_size[i].tolist()
    original_height, original_width = batch.original_size[i].tolist()
    limits = np.asarray([original_width, original_height] * 2, np.float32)
    scale = limits / np.asarray([width, height] * 2, np.float32)
    boxes = np.clip(np.asarray(detections.boxes)[i, slots] * scale, 0, limits)
    rles = None
    if detections.masks is not None:
        rles = masks_to_rles(
            np.asarray(detections.masks)[i, slots],
            boxes,
            detections.mask_frame,
            bucket=batch.images.shape[1:3],
            image_size=(height, width),
            original_size=(original_height, original_width),
        )
        if detections.mask_frame is MaskFrame.IMAGE:
            boxes = mask_bounds(rles).astype(np.float32)
    return Prediction(
        int(batch.image_id[i]),
        boxes,
        np.asarray(detections.scores)[i, slots],
        np.asarray(detections.labels)[i, slots],
        rles,
    )


def masks_to_rles(
    masks: np.ndarray,
    boxes: np.ndarray,
    frame: MaskFrame | None,
    *,
    bucket: Sequence[int],
    image_size: Size,
    original_size: Size,
) -> list[RLE]:
    """Return the RLEs of one image's masks (float `[n, h, w]`) on the original image.

    Args:
        masks: probabilities in `frame`.
        boxes: float32 `[n, 4]`, in pixels of the original image; not used by `MaskFrame.IMAGE`.
        frame: the masks' frame. ValueError if it is None.
        bucket: size of the padded image.
        image_size: size of the resized image inside the padding.
        original_size: size of the original image.
    """
    if frame is None:
        raise ValueError("detections have masks without a frame: set Detections.mask_frame")
    if frame is MaskFrame.IMAGE:
        return [image_mask_rle(mask, bucket, image_size, original_size) for mask in masks]
    paste: Paste = "integer" if frame is MaskFrame.INTEGER else "grid_sample"
    return box_mask_rles(masks, boxes, original_size, paste=paste)


def box_mask_rles(masks: np.ndarray, boxes: np.ndarray, size: Size, *, paste: Paste) -> list[RLE]:
    """Return the RLEs of masks (float32 `[n, h, w]`) over their boxes, on an image of `size`.

    Equals `jaxseg.ops.paste_masks`, thresholded, but computes only the pixels of each box.
    """
    # Truncated to whole pixels, corners depend on the last digit: torchvision computes in float32.
    boxes = np.asarray(boxes, np.float32 if paste == "integer" else np.float64)
    x1, y1, x2, y2 = boxes.T
    rows = _visible_pixels(y1, y2, masks.shape[1], size[0], paste)
    columns = _visible_pixels(x1, x2, masks.shape[2], size[1], paste)
    rles = []
    for mask, box, (top, bottom), (left, right) in zip(masks, boxes, rows, columns, strict=True):
        weights_y = _pixel_weights(
            box[1::2], mask.shape[0], top, bottom, paste
        )  # [bottom - top, h]
        weights_x = _pixel_weights(box[0::2], mask.shape[1], left, right, paste)
        # The box's columns, [right - left, H]: run lengths go down the columns of a mask.
        columns_of_box = np.zeros((right - left, size[0]), np.uint8)
        if weights_x.size and weights_y.size:
            # NumPy's BLAS starts threads for these small products, at up to ten times the time.
            added: Any = None
            pasted = cv2.gemm(weights_y, mask, 1, added, 0)  # [bottom - top, w]
            pasted = cv2.gemm(weights_x, pasted, 1, added, 0, flags=cv2.GEMM_2_T)
            columns_of_box[:, top:bottom] = pasted >= THRESHOLD
        rles.append(encode_columns(columns_of_box, left, size))
    return rles


def encode_columns(columns: UInt8[np.ndarray, "c H"], left: int, size: Size) -> RLE:
    """Return the RLE of a mask of an image of `size` that is empty but for some columns.

    `columns` are its columns from `left` on. The result equals pycocotools' for the whole mask: it
    is that of the columns, with more zeros in the first and in the last run.
    """
    height, width = size
    before, after = left * height, (width - left - len(columns)) * height
    if not len(columns) or (columns[-1, -1] and after):  # no last run of zeros
        whole = np.zeros((width, height), np.uint8)
        whole[left : left + len(columns)] = columns
        return mask_api.encode(whole.T)
    counts: bytes = mask_api.encode(columns.T)["counts"]
    return {"size": [height, width], "counts": add_to_ends(counts, before, after)}


def _visible_pixels(
    start: np.ndarray, end: np.ndarray, cells: int, size: int, paste: Paste
) -> list[list[int]]:
    """Return the first and the last plus one of the image's pixels that each mask can touch."""
    first, stop = paste_span(start, end, cells, paste)
    stop = np.clip(stop, 0, size)
    return np.stack([np.clip(first, 0, stop), stop], axis=1).astype(int).tolist()


def _pixel_weights(ends: np.ndarray, cells: int, first: int, stop: int, paste: Paste) -> np.ndarray:
    """Return a mask's weights (float32 `[stop - first, cells]`) along one axis of its box."""
    pixels = np.arange(first, stop, dtype=ends.dtype)
    weights = paste_weights(ends[:1], ends[1:], cells, pixels, paste)[0]
    return np.asarray(weights, np.float32)


def image_mask_rle(
    mask: np.ndarray, bucket: Sequence[int], image_size: Size, original_size: Size
) -> RLE:
    """Return the RLE of a mask (float32 `[h, w]`) in the padded image's frame.

    The mask is upsampled to the bucket, cut to the image and resized to the original image.
    """
    padded = cv2.resize(mask, (bucket[1], bucket[0]), interpolation=cv2.INTER_LINEAR)
    image = padded[: image_size[0], : image_size[1]]
    resized = cv2.resize(
        image, (original_size[1], original_size[0]), interpolation=cv2.INTER_LINEAR
    )
    return mask_api.encode(np.asfortranarray(resized >= THRESHOLD, np.uint8))
