"""How an image lies on its canvas: crop, flip and size as one map, drawn at random or plain.

Terms:
    region   the rectangle of the stored image that is seen, in whole pixels as stored. So a crop
             is exact, and seeing a region is the same as having had no more than it
    seen     coordinates in the region's pixels, mirrored if the view is; times `factors` they
             are those of the canvas
The other terms are those of `jaxseg.data.transforms.resize`.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.data.transforms.augmentation import Augmentation, RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.resize import ResizeBackend, draw_image, scaled_size, whole_size

_Region = tuple[int, int, int, int]


class View(NamedTuple):
    """A part of a stored image, mirrored or not, and its `(height, width)` on the canvas."""

    stored: tuple[int, int]  # (height, width) of the image
    region: _Region  # (top, left, bottom, right) in the image
    flipped: bool
    size: tuple[int, int]

    @property
    def part(self) -> tuple[int, int]:
        """`(height, width)` of the region."""
        top, left, bottom, right = self.region
        return bottom - top, right - left

    @property
    def whole(self) -> bool:
        """Nothing of the image is out of sight."""
        return self.part == self.stored

    @property
    def factors(self) -> np.ndarray:
        """From seen boxes to boxes on the canvas, float32 `[4]`."""
        height, width = self.part
        return np.asarray([self.size[1] / width, self.size[0] / height] * 2, np.float32)

    def see(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the image, `[n, 4]`, as seen. What lies outside of the region stays outside."""
        top, left, _, right = self.region
        if not self.flipped:
            return boxes - np.asarray([left, top, left, top], boxes.dtype)
        seen = boxes - np.asarray([0, top, 0, top], boxes.dtype)
        seen[:, 0], seen[:, 2] = right - boxes[:, 2], right - boxes[:, 0]
        return seen

    def draw(
        self, image: np.ndarray, bucket: tuple[int, int], resize_backend: ResizeBackend
    ) -> np.ndarray:
        """What is seen of the image, on a canvas of zeros."""
        top, left, bottom, right = self.region
        part = image[top:bottom, left:right]
        return draw_image(
            cv2.flip(part, 1) if self.flipped else part, self.size, bucket, resize_backend
        )


def plain_view(
    stored: tuple[int, int],
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    *,
    flipped: bool = False,
    resize_backend: ResizeBackend = "cv2",
) -> View:
    """The whole image, resized as `scaled_size` says."""
    size = scaled_size(stored, bucket, min_max_size, resize_backend)
    return View(stored, (0, 0, *stored), flipped, size)


def random_view(
    stored: tuple[int, int],
    rng: np.random.Generator,
    config: DataConfig,
    bucket: tuple[int, int],
) -> View:
    """A view of an image of `stored` `(height, width)`, drawn as `config.augmentation` says."""
    changes: Augmentation = config.augmentation
    flipped = bool(rng.random() < changes.hflip_prob)
    for_crop, for_size = rng.spawn(2)
    region = (0, 0, *stored)
    if changes.crop is not None:
        region = _crop(stored, changes.crop, for_crop)
    if changes.lsj is not None:
        return _jitter(
            stored, region, changes.lsj, for_size, bucket, flipped, config.resize_backend
        )
    min_max_size = config.min_max_size
    if changes.min_sizes and min_max_size is not None:
        min_max_size = int(for_size.choice(changes.min_sizes)), min_max_size[1]
    part = region[2] - region[0], region[3] - region[1]
    size = scaled_size(part, bucket, min_max_size, config.resize_backend)
    return View(stored, region, flipped, size)


def _crop(stored: tuple[int, int], crop: RandomSizeCrop, rng: np.random.Generator) -> _Region:
    """The rectangle of `RandomSizeCrop`, or the whole image where it does not come to a crop."""
    if rng.random() >= crop.prob:
        return 0, 0, *stored
    scale = rng.choice(crop.resize_to) / min(stored)
    drawn = rng.integers(crop.min_size, crop.max_size, size=2, endpoint=True)
    sides = [min(max(round(d / scale), 1), s) for d, s in zip(drawn.tolist(), stored, strict=True)]
    return _place(sides, (0, 0, *stored), rng)


def _jitter(
    stored: tuple[int, int],
    region: _Region,
    lsj: ScaleJitter,
    rng: np.random.Generator,
    bucket: tuple[int, int],
    flipped: bool,
    resize_backend: ResizeBackend,
) -> View:
    """The part of `region` that is seen on the canvas at a random scale.

    Detectron2 resizes first and crops whole pixels of the result. Here the crop is of whole stored
    pixels, so that nothing out of sight is resized; the scale of each axis gives way by less than
    one of those.
    """
    part = region[2] - region[0], region[3] - region[1]
    fit = min(bucket[0] / part[0], bucket[1] / part[1])
    scale = fit * rng.uniform(lsj.min_scale, lsj.max_scale)
    sides = [min(max(round(side / scale), 1), p) for side, p in zip(bucket, part, strict=True)]
    size = whole_size((sides[0], sides[1]), scale, bucket, resize_backend)
    return View(stored, _place(sides, region, rng), flipped, size)


def _place(sides: list[int], within: _Region, rng: np.random.Generator) -> _Region:
    """A rectangle of `(height, width)` somewhere in another, every place as likely."""
    room = within[2] - within[0] - sides[0], within[3] - within[1] - sides[1]
    top, left = (within[:2] + rng.integers(0, room, size=2, endpoint=True)).tolist()
    return top, left, top + sides[0], left + sides[1]
