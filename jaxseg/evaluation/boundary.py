"""Boundary AP (Cheng et al. 2021, "Boundary IoU", arXiv 2103.16562).

A mask's boundary is its pixels within a distance of its outline, 2 % of the image's diagonal. The
IoU of the boundaries falls with errors of the outline that hardly change the IoU of large masks. As
in the authors' evaluation of COCO results, an object and a detection match by the lower of both
IoUs, and a crowd matches by its mask alone.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api
from pycocotools.cocoeval import COCOeval

from jaxseg.data.masks.regions import Part, decode_part, encode_parts, mask_bounds
from jaxseg.data.source import RLE

DISTANCE = 0.02
"""Distance of a boundary's pixels from the outline, as a share of the image's diagonal."""


def boundaries(rles: Sequence[RLE]) -> list[RLE]:
    """Return the boundaries of masks of one image.

    A pixel of a mask belongs to its boundary if a pixel at most `DISTANCE` of the diagonal away,
    along both axes, is not in the mask or not in the image.
    """
    if not rles:
        return []
    height, width = rles[0]["size"]
    distance = max(1, round(DISTANCE * float(np.hypot(height, width))))
    parts = zip(rles, mask_bounds(rles).tolist(), strict=True)
    return encode_parts((_boundary(*part, distance) for part in parts), (height, width))


def _boundary(rle: RLE, box: Sequence[int], distance: int) -> Part:
    """Return the boundary within the tight box of a mask."""
    left, top, right, bottom = box
    mask = decode_part(rle, top, left, bottom, right).T  # [columns, rows]
    if min(mask.shape) > 2 * distance:  # else each pixel is near one outside the box
        side = 2 * distance + 1
        kernel = np.ones((side, side), np.uint8)
        mask = mask - cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask, top, left


def boundary_evaluator(segm: COCOeval) -> COCOeval:
    """Return an evaluator that matches by boundaries too, from one that has evaluated masks.

    Only what the boundaries can change is computed again: pairs whose masks reach the lowest IoU
    threshold.
    """
    evaluator, params = copy.copy(segm), segm.params
    changed = {key: _lower_ious(segm, key) for key in segm.ious}
    changed = {key: ious for key, ious in changed.items() if ious is not None}
    evaluator.ious = {**segm.ious, **changed}
    order = itertools.product(params.catIds, params.areaRng, params.imgIds)  # pycocotools' own
    evaluator.evalImgs = [
        evaluator.evaluateImg(image, category, area, params.maxDets[-1])
        if (image, category) in changed
        else found
        for found, (category, area, image) in zip(segm.evalImgs, order, strict=True)
    ]
    return evaluator


def _lower_ious(segm: COCOeval, key: tuple[Any, Any]) -> np.ndarray | None:
    """Return the lower of mask and boundary IoU for one image and category, or None.

    IoUs are `[detections, objects]`, as in `segm.ious`; None if boundaries can change no match.
    """
    ious = segm.ious[key]
    if not len(ious):
        return None
    objects, detections = segm._gts[key], segm._dts[key]
    order = np.argsort([-d["score"] for d in detections], kind="mergesort")[: len(ious)]
    near = ious >= segm.params.iouThrs.min()
    near[:, [bool(o["iscrowd"]) for o in objects]] = False
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not len(rows):
        return None
    of_boundaries = mask_api.iou(
        boundaries([_as_bytes(detections[order[i]]["segmentation"]) for i in rows]),
        boundaries([_as_bytes(objects[i]["segmentation"]) for i in columns]),
        [0] * len(columns),
    )
    lower, pairs = ious.copy(), np.ix_(rows, columns)
    lower[pairs] = np.minimum(ious[pairs], of_boundaries)
    return lower


def _as_bytes(rle: Mapping[str, Any]) -> RLE:
    """Return an RLE with its text as bytes; COCO files and result lists have strings."""
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
