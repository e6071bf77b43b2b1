"""Masks of imported objects: polygons that are checked, shapes as polygons, bitmaps as RLE."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.segmentations import MAX_PERIMETERS, to_rle
from jaxseg.data.importers.values import Polygons
from jaxseg.data.source import RLE

_MAX_POINTS = 720
Segmentation = Polygons | RLE


def check_polygons(
    parts: Sequence[Any], size: tuple[int, int], lose: Callable[[str], None]
) -> Polygons:
    """Return the valid polygons among the parts of one object; `lose` receives the other reasons.

    Args:
        parts: the points of each, numbers `[n, 2]`, x and y in pixels.
        size: `(height, width)` of the image.
        lose: called with a reason for each part that is left out.
    """
    kept = []
    for part in parts:
        points = as_points(part)
        if points is None:
            lose("polygon with values that are not numbers")
        elif problem := _problem(points, size):
            lose(problem)
        else:
            kept.append(points.reshape(-1).tolist())
    return kept


def as_points(value: Any) -> np.ndarray | None:
    """Return points as float64 `[n, 2]`; None if they are not pairs of numbers."""
    try:
        points = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return points if points.ndim == 2 and points.shape[1] == 2 else None


def _problem(points: np.ndarray, size: tuple[int, int]) -> str:
    """Return what is wrong with a polygon, "" if nothing is."""
    if not np.isfinite(points).all():
        return "polygon with numbers that are not finite"
    if len(points) < 3:
        return "polygon of fewer than three points"
    side = np.asarray(size[::-1], np.float64)  # (width, height)
    low, high = points.min(0), points.max(0)
    # pycocotools crashes on points that are very far away.
    if (low < -side).any() or (high > 2 * side).any():
        return "polygon that extends beyond the image by more than the image's size"
    if (high < 0).any() or (low > side).any():
        return "polygon outside the image"
    edges = np.abs(points - np.roll(points, 1, axis=0)).max(1)
    if edges.sum() > MAX_PERIMETERS * 2 * side.sum():  # pycocotools takes memory for each pixel
        return f"polygon with an outline of more than {MAX_PERIMETERS} times the image's"
    return ""


def join(masks: Sequence[Segmentation], size: tuple[int, int]) -> Segmentation:
    """Join the masks of one object's parts: polygons stay polygons, otherwise the union as RLE."""
    if len(masks) == 1:
        return masks[0]
    polygons = [mask for mask in masks if isinstance(mask, list)]
    if len(polygons) == len(masks):
        return [polygon for mask in polygons for polygon in mask]
    return mask_api.merge([to_rle(mask, *size) for mask in masks])


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[tuple[float, float]]:
    """Return the corners of a rectangle."""
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0
) -> list[tuple[float, float]]:
    """Return an ellipse as a polygon with a point for each pixel of its outline, up to 720.

    `angle` turns it, in radians from x to y. The points are NaN if a number is not finite.
    """
    if not all(map(math.isfinite, (x, y, radius_x, radius_y, angle))):
        return [(math.nan, math.nan)] * 3
    count = int(min(max(2 * math.pi * max(abs(radius_x), abs(radius_y)), 16), _MAX_POINTS))
    turns = np.arange(count) * (2 * math.pi / count)
    along, across = radius_x * np.cos(turns), radius_y * np.sin(turns)
    cos, sin = math.cos(angle), math.sin(angle)
    xs, ys = x + along * cos - across * sin, y + along * sin + across * cos
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def encode_bitmap(bitmap: np.ndarray) -> RLE:
    """Return a bitmap, bool `[h, w]`, as RLE."""
    return mask_api.encode(np.asfortranarray(bitmap, np.uint8))


def encode_labels(labels: np.ndarray) -> Iterator[tuple[int, RLE]]:
    """Yield each id of a label image (int `[h, w]`), except 0, with its pixels as RLE.

    It takes the time of one sort, however many ids there are.
    """
    height, width = labels.shape
    flat = labels.T.reshape(-1)  # down the columns, as RLE counts
    pixels = np.flatnonzero(flat)
    pixels = pixels[np.argsort(flat[pixels], kind="stable")]
    ids, first = np.unique(flat[pixels], return_index=True)
    for label, own in zip(ids.tolist(), np.split(pixels, first[1:]), strict=bool(len(ids))):
        breaks = np.flatnonzero(np.diff(own) != 1) + 1
        starts = own[np.concatenate([[0], breaks])]
        ends = own[np.concatenate([breaks - 1, [len(own) - 1]])] + 1
        edges = np.stack([starts, ends], axis=1).reshape(-1)
        counts = np.diff(edges, prepend=0, append=height * width).tolist()
        yield (
            label,
            mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width),
        )
