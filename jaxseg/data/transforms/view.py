"""Map an image to its bucket: crop, flip and resize as one view, fixed or random.

Coordinates:
    original  pixels of the image as read
    region    pixels of the region, the rectangle of the original image that the view keeps,
              mirrored if the view is flipped. The rectangle has whole pixels, so a view of a
              region equals a view of an image that was cut to the region beforehand.
    bucket    pixels of the padded image: region coordinates times `View.scale_factor`
The other terms are those of `jaxseg.data.transforms.resize`.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.data.transforms.augmentation import RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.resize import (
    ResizeBackend,
    resize_and_pad,
    rounded_size,
    scaled_size,
)

_Region = tuple[int, int, int, int]


class View(NamedTuple):
    """A region of an image, whether it is mirrored, and how it is resized."""

    original_size: tuple[int, int]  # (height, width)
    region: _Region  # (top, left, bottom, right), original coordinates, half-open
    flipped: bool
    size: tuple[int, int]  # (height, width) in the bucket
    resize_backend: ResizeBackend = "cv2"

    @property
    def region_size(self) -> tuple[int, int]:
        """Return `(height, width)` of the region in original pixels."""
        top, left, bottom, right = self.region
        return bottom - top, right - left

    @property
    def is_full_image(self) -> bool:
        """Return whether the region is the whole image."""
        return self.region_size == self.original_size

    @property
    def scale_factor(self) -> np.ndarray:
        """Return the factors from region to bucket coordinates of `xyxy` boxes, float32 `[4]`."""
        height, width = self.region_size
        return np.asarray([self.size[1] / width, self.size[0] / height] * 2, np.float32)

    def to_region(self, boxes: np.ndarray) -> np.ndarray:
        """Return `xyxy` boxes `[n, 4]` in region coordinates, not clipped to the region."""
        top, left, _, right = self.region
        if not self.flipped:
            return boxes - np.asarray([left, top, left, top], boxes.dtype)
        mirrored = boxes - np.asarray([0, top, 0, top], boxes.dtype)
        # Mirroring swaps the left and the right edge.
        mirrored[:, 0], mirrored[:, 2] = right - boxes[:, 2], right - boxes[:, 0]
        return mirrored

    def render(self, image: np.ndarray, bucket: tuple[int, int]) -> np.ndarray:
        """Return the view of a uint8 image `[h, w, 3]`, padded with zeros as `fit_image` does."""
        top, left, bottom, right = self.region
        cropped = image[top:bottom, left:right]  # [region height, region width, 3]
        if self.flipped:
            cropped = cv2.flip(cropped, 1)
        return resize_and_pad(cropped, self.size, bucket, self.resize_backend)


def full_view(
    original_size: tuple[int, int],
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    *,
    flipped: bool = False,
    resize_backend: ResizeBackend = "cv2",
) -> View:
    """Return a view of the whole image, resized as `scaled_size` defines."""
    size = scaled_size(original_size, bucket, min_max_size, resize_backend)
    return View(original_size, (0, 0, *original_size), flipped, size, resize_backend)


def random_view(
    original_size: tuple[int, int],
    rng: np.random.Generator,
    config: DataConfig,
    bucket: tuple[int, int],
) -> View:
    """Draw a view of an image of `original_size` `(height, width)` from `config.augmentation`."""
    augmentation = config.augmentation
    flipped = bool(rng.random() < augmentation.hflip_prob)
    # One generator each, so that the crop does not change the size that is drawn.
    crop_rng, size_rng = rng.spawn(2)
    region = (0, 0, *original_size)
    if augmentation.crop is not None:
        region = _random_crop(original_size, augmentation.crop, crop_rng)
    if augmentation.lsj is not None:
        region, size = _random_scale(
            region, augmentation.lsj, size_rng, bucket, config.resize_backend
        )
        return View(original_size, region, flipped, size, config.resize_backend)
    min_max_size = config.min_max_size
    if augmentation.min_sizes and min_max_size is not None:
        min_max_size = int(size_rng.choice(augmentation.min_sizes)), min_max_size[1]
    region_size = region[2] - region[0], region[3] - region[1]
    size = scaled_size(region_size, bucket, min_max_size, config.resize_backend)
    return View(original_size, region, flipped, size, config.resize_backend)


def _random_crop(
    original_size: tuple[int, int], crop: RandomSizeCrop, rng: np.random.Generator
) -> _Region:
    """Return a random rectangle, or the whole image with probability `1 - crop.prob`."""
    if rng.random() >= crop.prob:
        return 0, 0, *original_size
    # DETR resizes before it crops; dividing by the scale crops the same part without resizing.
    scale = rng.choice(crop.resize_to) / min(original_size)
    drawn = rng.integers(crop.min_size, crop.max_size, size=2, endpoint=True).tolist()
    size = [
        min(max(round(side / scale), 1), original)
        for side, original in zip(drawn, original_size, strict=True)
    ]
    return _random_box(size, (0, 0, *original_size), rng)


def _random_scale(
    region: _Region,
    lsj: ScaleJitter,
    rng: np.random.Generator,
    bucket: tuple[int, int],
    resize_backend: ResizeBackend,
) -> tuple[_Region, tuple[int, int]]:
    """Return a part of `region` at a random scale and its resized `(height, width)`.

    The part is as large as fits into the bucket at that scale, at a random position.

    Detectron2 resizes first and crops whole pixels of the result. Here the crop has whole original
    pixels, so that nothing outside of it is resized; the scale of each axis differs from the drawn
    one by less than one original pixel.
    """
    height, width = region[2] - region[0], region[3] - region[1]
    fit = min(bucket[0] / height, bucket[1] / width)
    scale = fit * rng.uniform(lsj.min_scale, lsj.max_scale)
    rows = min(max(round(bucket[0] / scale), 1), height)
    columns = min(max(round(bucket[1] / scale), 1), width)
    size = rounded_size((rows, columns), scale, bucket, resize_backend)
    return _random_box([rows, columns], region, rng), size


def _random_box(size: list[int], bounds: _Region, rng: np.random.Generator) -> _Region:
    """Return a rectangle of `(height, width)` inside `bounds`, every position equally likely."""
    slack = bounds[2] - bounds[0] - size[0], bounds[3] - bounds[1] - size[1]
    top, left = (bounds[:2] + rng.integers(0, slack, size=2, endpoint=True)).tolist()
    return top, left, top + size[0], left + size[1]
