"""Scenes drawn by the project itself: data that is always there, with exact masks.

A scene is a textured ground with up to eight shapes of five classes, from 8 pixels to half
the picture, painted one over another. A mask is the part of a shape that is visible; no
shape is hidden so far that less than a quarter of it can be seen. One scene in twenty is
empty. Scene i of a split is a pure function of (seed, split, i).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.write import coco_json
from jaxseg.data.source import Category, Example

SHAPES = ("disc", "square", "triangle", "star", "ring")
_SPLITS = {"train": 0, "val": 1}
_SUPERSAMPLING = 4
_LEAST_VISIBLE = 0.25
_LEAST_PIXELS = 20
_EMPTY_SHARE = 0.05
_NEIGHBOUR_SHARE = 0.5
"""How many shapes are placed on or beside an earlier one, to make them overlap."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Drawn scenes of `size x size` pixels."""

    size: int = 128
    train_images: int = 100_000
    val_images: int = 200
    max_shapes: int = 8
    seed: int = 0

    def open(self, split: str) -> "ShapesSource":
        if split not in _SPLITS:
            raise ValueError(f"shapes have the splits train and val, not {split!r}")
        return ShapesSource(self, split)


class ShapesSource:
    """One split of `Shapes`, drawn when asked for."""

    def __init__(self, config: Shapes, split: str):
        self._config, self._split = config, split
        self._count = config.train_images if split == "train" else config.val_images
        self.categories: Sequence[Category] = [
            Category(number, name) for number, name in enumerate(SHAPES, start=1)
        ]
        self.image_ids: Sequence[int] = range(1, self._count + 1)
        self.image_sizes = np.full((self._count, 2), config.size, np.int32)
        self.object_counts: np.ndarray | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng([self._config.seed, _SPLITS[self._split], index])
        image, masks, labels = draw_scene(rng, self._config)
        return Example(
            image=image,
            image_id=index + 1,
            boxes=np.asarray([_tight_box(m) for m in masks], np.float32).reshape(-1, 4),
            labels=np.asarray(labels, np.int32),
            rles=[mask_api.encode(np.asfortranarray(m, np.uint8)) for m in masks],
            iscrowd=np.zeros(len(masks), bool),
        )

    def ground_truth(self) -> dict[str, Any]:
        return coco_json(self)


def draw_scene(
    rng: np.random.Generator, config: Shapes
) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """The picture (uint8 `[size, size, 3]`), visible masks (bool) and labels of a scene."""
    bucket = _ground(rng, config.size)
    masks: list[np.ndarray] = []
    areas: list[int] = []
    labels: list[int] = []
    centers: list[tuple[float, float]] = []
    wanted = 0 if rng.random() < _EMPTY_SHARE else int(rng.integers(1, config.max_shapes + 1))
    for _ in range(wanted):
        label = int(rng.integers(len(SHAPES)))
        size = math.exp(rng.uniform(math.log(8), math.log(config.size / 2)))
        center = _place(rng, centers, size, config.size)
        alpha = _coverage(label, center, size, rng.uniform(0, 2 * math.pi), config.size)
        mask = alpha >= 0.5
        area = int(mask.sum())
        left = [earlier & ~mask for earlier in masks]
        hidden = any(
            m.sum() < max(_LEAST_VISIBLE * a, _LEAST_PIXELS)
            for m, a in zip(left, areas, strict=True)
        )
        if hidden or area < _LEAST_PIXELS:
            continue  # leaving this one out keeps all the others in sight
        _paint(rng, bucket, alpha)
        masks = [*left, mask]
        areas.append(area)
        labels.append(label)
        centers.append(center)
    noise = rng.normal(0, 4, bucket.shape).astype(np.float32)
    return np.clip(bucket + noise, 0, 255).astype(np.uint8), masks, labels


def _place(
    rng: np.random.Generator, centers: Sequence[tuple[float, float]], size: float, side: int
) -> tuple[float, float]:
    """A centre `(x, y)`, often near an earlier one; at least half the shape is in the picture."""
    if centers and rng.random() < _NEIGHBOUR_SHARE:
        x, y = centers[int(rng.integers(len(centers)))]
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.0) * size
        x, y = x + distance * math.cos(angle), y + distance * math.sin(angle)
        return float(np.clip(x, 0, side)), float(np.clip(y, 0, side))
    margin = size / 2
    return float(rng.uniform(margin, side - margin)), float(rng.uniform(margin, side - margin))


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """A float32 ground: two colours mixed by smooth noise at two scales."""
    first, second = rng.uniform(30, 200, (2, 3)).astype(np.float32)
    coarse = cv2.resize(rng.random((4, 4), np.float32), (side, side))
    cells = max(side // 6, 2)
    fine = cv2.resize(rng.random((cells, cells), np.float32), (side, side))
    mix = (0.7 * coarse + 0.3 * fine)[..., None]
    return np.asarray(first + (second - first) * mix, np.float32)


def _paint(rng: np.random.Generator, bucket: np.ndarray, alpha: np.ndarray) -> None:
    """Blends a shaded colour that differs from what it covers into the canvas."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    alpha = alpha[part][..., None]
    below = (bucket[part] * alpha).sum((0, 1)) / alpha.sum()
    color = below
    while np.abs(color - below).max() < 50:
        color = rng.uniform(0, 255, 3)
    height, width = alpha.shape[:2]
    slope_y, slope_x = rng.uniform(-20, 20, 2)
    shade = (
        np.linspace(-slope_y, slope_y, height)[:, None]
        + np.linspace(-slope_x, slope_x, width)[None, :]
    )
    bucket[part] += alpha * (color.astype(np.float32) + shade[..., None] - bucket[part])


def _coverage(
    label: int, center: tuple[float, float], size: float, angle: float, side: int
) -> np.ndarray:
    """How much of each pixel a shape covers, float32 `[side, side]` in 0 to 1.

    Drawn supersampled in a window around the shape.
    """
    radius = math.ceil(size / 2) + 2
    left, top = math.floor(center[0]) - radius, math.floor(center[1]) - radius
    window = 2 * radius + 1
    fine = np.zeros((window * _SUPERSAMPLING, window * _SUPERSAMPLING), np.uint8)
    middle = (np.asarray(center) - (left, top)) * _SUPERSAMPLING
    _OUTLINES[label](fine, middle, size / 2 * _SUPERSAMPLING, angle)
    covered = cv2.resize(fine, (window, window), interpolation=cv2.INTER_AREA) / np.float32(255)
    alpha = np.zeros((side, side), np.float32)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + window, side), min(left + window, side)
    alpha[y0:y1, x0:x1] = covered[y0 - top : y1 - top, x0 - left : x1 - left]
    return alpha


def _fill_polygon(
    fine: np.ndarray, middle: np.ndarray, radius: float, angle: float, radii: Sequence[float]
) -> None:
    """A polygon with corners at equal angles, at `radii` times the radius."""
    angles = angle + np.arange(len(radii)) * 2 * math.pi / len(radii)
    reach = np.asarray(radii) * radius
    corners = middle + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    cv2.fillPoly(fine, [np.round(corners * 16).astype(np.int32)], 255, shift=4)


def _fill_disc(
    fine: np.ndarray, middle: np.ndarray, radius: float, angle: float, hole: float = 0.0
) -> None:
    del angle
    center = np.round(middle * 16).astype(int).tolist()
    cv2.circle(fine, center, round(radius * 16), 255, -1, shift=4)
    if hole:
        cv2.circle(fine, center, round(hole * radius * 16), 0, -1, shift=4)


_OUTLINES: tuple[Callable[[np.ndarray, np.ndarray, float, float], None], ...] = (
    _fill_disc,
    functools.partial(_fill_polygon, radii=(1.0,) * 4),
    functools.partial(_fill_polygon, radii=(1.0,) * 3),
    functools.partial(_fill_polygon, radii=(1.0, 0.45) * 5),
    functools.partial(_fill_disc, hole=0.55),
)
"""How each of `SHAPES` is filled into a canvas, given its middle, radius and angle."""


def _tight_box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
