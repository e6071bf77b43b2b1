"""Merge instances and a semantic map into one panoptic map of the original image.

The heuristic of Kirillov et al. 2019 (arXiv 1801.00868, section 7), as Detectron2 and MMDetection
have it: instances are placed, the best first, then stuff where none is.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as mask_api

from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import RLE
from jaxseg.types import HeuristicMerging


def merge_heuristically(
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    rles: Sequence[RLE],
    stuff: Int[np.ndarray, "h w"],
    merging: HeuristicMerging,
) -> PanopticMap:
    """Return the panoptic map of n instances and of stuff, all on the original image.

    The ids are 1, 2, ...: first the instances, best first, then stuff in the order of labels.

    Args:
        scores: scores of the instances.
        labels: labels of the instances.
        rles: masks of the instances.
        stuff: the label of the stuff at each pixel, -1 for none (`best_stuff`).
        merging: the thresholds.
    """
    ids = np.zeros(stuff.shape, np.int32)
    segments: list[Segment] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] < merging.score_threshold:
            break
        x, y, width, height = mask_api.toBbox(rles[i]).astype(int).tolist()
        box = slice(y, y + height), slice(x, x + width)
        mask = mask_api.decode(rles[i])[box].astype(bool)
        visible = mask & (ids[box] == 0)
        area, visible_area = np.count_nonzero(mask), np.count_nonzero(visible)
        if not visible_area or (area - visible_area) / area > merging.max_overlap:
            continue
        segments.append(Segment(len(segments) + 1, int(labels[i]), score=float(scores[i])))
        ids[box][visible] = len(segments)
    rest = np.where(ids == 0, stuff, -1)
    for label, area in zip(*np.unique(rest, return_counts=True), strict=True):
        if label < 0 or area < merging.min_stuff_area:
            continue
        segments.append(Segment(len(segments) + 1, int(label)))
        ids[rest == label] = len(segments)
    return PanopticMap(ids, segments)


def best_stuff(
    logits: Float[np.ndarray, "h w C"],
    num_things: int,
    *,
    bucket: Sequence[int],
    image_size: tuple[int, int],
    original_size: tuple[int, int],
) -> Int[np.ndarray, "H W"]:
    """Return the label of the stuff with the largest logit at each pixel of the original image.

    It is -1 where the last channel, that of all things, is the largest. The logits are upsampled to
    the bucket, cut to the image and resized to the original image, both bilinearly. This is done
    channel by channel: together, 54 channels of a photograph of 4000 x 3000 pixels are 2.6 GB.

    Args:
        logits: of the stuff classes in the order of their labels, and of all things, in the padded
            image's frame.
        num_things: the label of the first stuff class.
        bucket: size of the padded image.
        image_size: size of the resized image inside the padding.
        original_size: size of the original image.
    """
    logits = np.asarray(logits, np.float32)  # of another dtype OpenCV would not fill `padded`
    largest = np.full(original_size, -np.inf, np.float32)
    labels = np.full(original_size, -1, np.int32)
    # Written again for each channel: new arrays would cost a quarter of the time.
    padded = np.empty((bucket[0], bucket[1]), np.float32)
    resized = np.empty(original_size, np.float32)
    num_stuff = logits.shape[2] - 1
    for channel in range(num_stuff + 1):
        cv2.resize(logits[..., channel], padded.shape[::-1], padded, 0, 0, cv2.INTER_LINEAR)
        image = padded[: image_size[0], : image_size[1]]
        cv2.resize(image, resized.shape[::-1], resized, 0, 0, cv2.INTER_LINEAR)
        label = num_things + channel if channel < num_stuff else -1
        np.copyto(labels, label, where=resized > largest)
        np.maximum(largest, resized, out=largest)
    return labels
