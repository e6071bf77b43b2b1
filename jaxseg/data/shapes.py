"""Synthetic scenes with exact masks, as a dataset that needs no files.

A scene is a textured background with up to eight shapes of five classes, from 8 pixels to half the
image in size, painted one over another. A mask is the visible part of a shape; at least a quarter
of each shape stays visible. One scene in twenty is empty. Scene i of a split is a pure function of
(seed, split, i).

With `stuff`, the background has two or three regions of the classes plain, striped and dotted, and
the scenes have panoptic maps. Their shapes are those of the same seed without it.
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
from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.masks.regions import bitmap_bounds, mask_bounds
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import Category, Example

SHAPES = ("disc", "square", "triangle", "star", "ring")
STUFF = ("plain", "striped", "dotted")
_SPLITS = {"train": 0, "val": 1}
_SUPERSAMPLING = 4
_MIN_VISIBLE_FRACTION = 0.25
_MIN_PIXELS = 20
_EMPTY_FRACTION = 0.05
"""Fraction of scenes without shapes."""
_NEIGHBOUR_FRACTION = 0.5
"""Fraction of shapes that are centred near an earlier one, so that shapes overlap."""
_MIN_CONTRAST = 50
"""Largest difference over the channels between a shape's colour and its background, at least."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Synthetic scenes of `size x size` pixels."""

    size: int = 128
    train_images: int = 100_000
    val_images: int = 200
    max_shapes: int = 8
    seed: int = 0
    stuff: bool = dataclasses.field(default=False, repr=False)
    """Draw classes of stuff into the background: the scenes are a panoptic source."""

    def open(self, split: str) -> "ShapesSource":
        """Open the split `train` or `val`; with `stuff` it is a `PanopticSource`."""
        if split not in _SPLITS:
            raise ValueError(f"shapes have the splits train and val, not {split!r}")
        return (PanopticShapesSource if self.stuff else ShapesSource)(self, split)


class ShapesSource:
    """One split of `Shapes`, drawn on access."""

    def __init__(self, config: Shapes, split: str):
        self._config, self._split = config, split
        self._count = config.train_images if split == "train" else config.val_images
        self.categories: Sequence[Category] = [
            Category(category_id, name) for category_id, name in enumerate(SHAPES, start=1)
        ]
        self.image_ids: Sequence[int] = range(1, self._count + 1)
        self.image_sizes = np.full((self._count, 2), config.size, np.int32)
        self.object_counts: np.ndarray | None = None
        # `stuff` is not in the repr: the scenes without it keep the fingerprint they always had.
        self.fingerprint = fingerprint(repr(config), split, *["stuff"] * config.stuff)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Example:
        image, masks, labels = draw_scene(self._rng(index), self._config)
        return self._example(index, image, masks, labels)

    def _rng(self, index: int, *more: int) -> np.random.Generator:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return np.random.default_rng([self._config.seed, _SPLITS[self._split], index, *more])

    def _example(
        self, index: int, image: np.ndarray, masks: Sequence[np.ndarray], labels: Sequence[int]
    ) -> Example:
        rles = [mask_api.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
        return Example(
            image=image,
            image_id=index + 1,
            boxes=mask_bounds(rles).astype(np.float32),
            labels=np.asarray(labels, np.int32),
            rles=rles,
            iscrowd=np.zeros(len(masks), bool),
        )

    def ground_truth(self) -> dict[str, Any]:
        """Return all scenes' annotations as COCO JSON."""
        return coco_json(self)


class PanopticShapesSource(ShapesSource):
    """One split of `Shapes` with stuff, as a `PanopticSource`."""

    num_things = len(SHAPES)

    def __init__(self, config: Shapes, split: str):
        super().__init__(config, split)
        first = len(SHAPES) + 1
        stuff = [Category(category_id, name) for category_id, name in enumerate(STUFF, first)]
        self.categories = [*self.categories, *stuff]

    def __getitem__(self, index: int, /) -> Example:
        image, masks, labels, semantic = self._draw(index)
        return self._example(index, image, masks, labels)._replace(semantic=semantic)

    def panoptic_map(self, index: int, /) -> PanopticMap:
        """Return the scene's panoptic map: the shapes in order, then the stuff by its label."""
        _, masks, labels, semantic = self._draw(index)
        ids = np.zeros(semantic.shape, np.int32)
        segments = []
        for segment_id, (mask, label) in enumerate(zip(masks, labels, strict=True), start=1):
            ids[mask] = segment_id
            segments.append(Segment(segment_id, label))
        for label in np.unique(semantic[semantic >= self.num_things]).tolist():
            segments.append(Segment(len(segments) + 1, label))
            ids[semantic == label] = len(segments)
        return PanopticMap(ids, segments)

    def _draw(self, index: int) -> tuple[np.ndarray, list[np.ndarray], list[int], np.ndarray]:
        """Return the image, visible masks and labels of the shapes, and the semantic map."""
        # Of a generator of its own, so that the shapes are those of the scene without stuff.
        regions, texture = _draw_stuff(self._rng(index, 1), self._config.size)
        image, masks, labels = draw_scene(self._rng(index), self._config, texture)
        semantic = (len(SHAPES) + regions).astype(np.uint8)
        for mask, label in zip(masks, labels, strict=True):
            semantic[mask] = label
        return image, masks, labels, semantic


def draw_scene(
    rng: np.random.Generator, config: Shapes, texture: np.ndarray | None = None
) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Return a scene's image (uint8 `[size, size, 3]`), visible masks (bool) and labels.

    `texture`, float32 `[size, size]`, is added to the background where no shape is.
    """
    image = _draw_background(rng, config.size)
    uncovered = np.ones((config.size, config.size), np.float32)
    masks: list[np.ndarray] = []  # the visible part of each shape so far
    areas: list[int] = []  # of the whole shapes
    labels: list[int] = []
    centers: list[tuple[float, float]] = []
    is_empty = rng.random() < _EMPTY_FRACTION
    count = 0 if is_empty else int(rng.integers(1, config.max_shapes + 1))
    for _ in range(count):
        label = int(rng.integers(len(SHAPES)))
        size = math.exp(rng.uniform(math.log(8), math.log(config.size / 2)))
        center = _random_center(rng, centers, size, config.size)
        alpha = _coverage(label, center, size, rng.uniform(0, 2 * math.pi), config.size)
        mask = alpha >= 0.5
        area = int(mask.sum())
        visible = [earlier & ~mask for earlier in masks]
        occludes_too_much = any(
            m.sum() < max(_MIN_VISIBLE_FRACTION * a, _MIN_PIXELS)
            for m, a in zip(visible, areas, strict=True)
        )
        if occludes_too_much or area < _MIN_PIXELS:
            continue
        _paint(rng, image, alpha)
        uncovered *= 1 - alpha
        masks = [*visible, mask]
        areas.append(area)
        labels.append(label)
        centers.append(center)
    if texture is not None:
        image += (texture * uncovered)[..., None]
    noise = rng.normal(0, 4, image.shape).astype(np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8), masks, labels


def _random_center(
    rng: np.random.Generator, centers: Sequence[tuple[float, float]], size: float, side: int
) -> tuple[float, float]:
    """Return a centre `(x, y)` inside the image, often near an earlier one."""
    if centers and rng.random() < _NEIGHBOUR_FRACTION:
        x, y = centers[int(rng.integers(len(centers)))]
        angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.0) * size
        x, y = x + distance * math.cos(angle), y + distance * math.sin(angle)
        return float(np.clip(x, 0, side)), float(np.clip(y, 0, side))
    margin = size / 2
    return float(rng.uniform(margin, side - margin)), float(rng.uniform(margin, side - margin))


def _draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return two colours mixed by smooth noise at two scales, float32 `[side, side, 3]`."""
    first, second = rng.uniform(30, 200, (2, 3)).astype(np.float32)
    coarse = cv2.resize(rng.random((4, 4), np.float32), (side, side))
    cells = max(side // 6, 2)
    fine = cv2.resize(rng.random((cells, cells), np.float32), (side, side))
    mix = (0.7 * coarse + 0.3 * fine)[..., None]
    return np.asarray(first + (second - first) * mix, np.float32)


def _draw_stuff(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return regions, indices into `STUFF`, and what they add to the background's brightness.

    Both are `[side, side]`. A region is where the smooth noise of its class is the largest.
    """
    present = rng.permutation(len(STUFF))[: int(rng.integers(2, len(STUFF) + 1))]
    fields = np.full((len(STUFF), side, side), -1, np.float32)
    for number in present.tolist():
        cells = rng.random((4, 4), np.float32)
        fields[number] = cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
    regions = fields.argmax(0)
    angle, period, phase = rng.uniform(0, math.pi), rng.uniform(6, 9), rng.uniform(0, 9, 2)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle)
    across -= x * math.sin(angle)
    waves = [
        np.sin((axis + offset) * 2 * math.pi / period)
        for axis, offset in zip((along, across), phase.tolist(), strict=True)
    ]
    brightness = np.zeros((len(STUFF), side, side), np.float32)
    brightness[1] = np.clip(waves[0] * 2, -1, 1)
    brightness[2] = np.where(waves[0] + waves[1] > 1, 1.5, 0)
    signs = rng.choice([-1.0, 1.0], len(STUFF)) * rng.uniform(20, 30, len(STUFF))
    texture = np.take_along_axis(brightness, regions[None], 0)[0] * signs[regions]
    return regions, texture.astype(np.float32)


def _paint(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray) -> None:
    """Blend a shaded colour that contrasts with its background into the image, in place."""
    bounds = bitmap_bounds(alpha)
    assert bounds is not None  # the shape has pixels
    top, left, bottom, right = bounds
    region = image[top:bottom, left:right]  # [h, w, 3], a view
    alpha = alpha[top:bottom, left:right, None]  # [h, w, 1]
    below = (region * alpha).sum((0, 1)) / alpha.sum()  # [3], mean colour
    color = below
    while np.abs(color - below).max() < _MIN_CONTRAST:
        color = rng.uniform(0, 255, 3)
    height, width = alpha.shape[:2]
    slope_y, slope_x = rng.uniform(-20, 20, 2)
    shade = (
        np.linspace(-slope_y, slope_y, height)[:, None]
        + np.linspace(-slope_x, slope_x, width)[None, :]
    )
    region += alpha * (color.astype(np.float32) + shade[..., None] - region)


def _coverage(
    label: int, center: tuple[float, float], size: float, angle: float, side: int
) -> np.ndarray:
    """Return the fraction of each pixel that a shape covers, float32 `[side, side]`.

    The shape is drawn supersampled in a window around it.
    """
    radius = math.ceil(size / 2) + 2
    left, top = math.floor(center[0]) - radius, math.floor(center[1]) - radius
    window = 2 * radius + 1
    fine = np.zeros((window * _SUPERSAMPLING, window * _SUPERSAMPLING), np.uint8)
    fine_center = (np.asarray(center) - (left, top)) * _SUPERSAMPLING
    _FILL[label](fine, fine_center, size / 2 * _SUPERSAMPLING, angle)
    covered = cv2.resize(fine, (window, window), interpolation=cv2.INTER_AREA) / np.float32(255)
    alpha = np.zeros((side, side), np.float32)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + window, side), min(left + window, side)
    alpha[y0:y1, x0:x1] = covered[y0 - top : y1 - top, x0 - left : x1 - left]
    return alpha


def _fill_polygon(
    fine: np.ndarray, center: np.ndarray, radius: float, angle: float, radii: Sequence[float]
) -> None:
    """Fill a polygon with corners at equal angles, at `radii` times the radius from its centre."""
    angles = angle + np.arange(len(radii)) * 2 * math.pi / len(radii)
    distances = np.asarray(radii) * radius
    corners = center + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    # shift=4: the coordinates have 4 fractional bits.
    cv2.fillPoly(fine, [np.round(corners * 16).astype(np.int32)], 255, shift=4)


def _fill_disc(
    fine: np.ndarray, center: np.ndarray, radius: float, angle: float, hole: float = 0.0
) -> None:
    """Fill a disc, with a hole of `hole` times the radius."""
    del angle
    fixed_point = np.round(center * 16).astype(int).tolist()
    cv2.circle(fine, fixed_point, round(radius * 16), 255, -1, shift=4)
    if hole:
        cv2.circle(fine, fixed_point, round(hole * radius * 16), 0, -1, shift=4)


_FILL: tuple[Callable[[np.ndarray, np.ndarray, float, float], None], ...] = (
    _fill_disc,
    functools.partial(_fill_polygon, radii=(1.0,) * 4),
    functools.partial(_fill_polygon, radii=(1.0,) * 3),
    functools.partial(_fill_polygon, radii=(1.0, 0.45) * 5),
    functools.partial(_fill_disc, hole=0.55),
)
"""Fills each of `SHAPES` into an image, given its centre, radius and angle."""
