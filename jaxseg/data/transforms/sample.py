"""From an example to arrays of fixed shapes: view, paste, colours, masks in the model's frame.

The terms are those of `jaxseg.data.transforms.resize`; the order of the changes is told in
`jaxseg.data.transforms.augmentation`.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.data.masks.rasterize import rasterizer
from jaxseg.data.source import Example, Source
from jaxseg.data.transforms.color import change_colors, random_colors
from jaxseg.data.transforms.copy_paste import choose, paste
from jaxseg.data.transforms.objects import ViewedObject, center_of_mass, place
from jaxseg.data.transforms.resize import ResizeBackend
from jaxseg.data.transforms.view import plain_view, random_view
from jaxseg.types import MaskSpec


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


def train_sample(
    source: Source,
    index: int,
    rng: np.random.Generator,
    *,
    config: DataConfig,
    bucket: tuple[int, int],
    needs: MaskSpec,
) -> Sample:
    """Image `index` of a source, changed at random as `config.augmentation` says.

    A pure function of its arguments and the seed of `rng`, which has not been drawn from.
    """
    changes = config.augmentation
    for_paste, for_color = rng.spawn(2)
    picture, size, objects = _look(source[index], rng, config, bucket)
    if changes.copy_paste is not None and for_paste.random() < changes.copy_paste.prob:
        partner = source[int(for_paste.integers(len(source)))]
        other, _, found = _look(partner, for_paste, config, bucket)
        pasted = choose(found, for_paste)
        least = changes.copy_paste.min_visible_fraction
        size, objects = paste(picture, size, objects, other, pasted, least)
    if changes.color is not None:
        seen = picture[: size[0], : size[1]]
        mean = np.asarray(cv2.mean(seen)[:3])
        change_colors(seen, random_colors(for_color, changes.color, mean))
    return _pack(picture, size, objects, config.max_objects, needs)


def make_sample(
    example: Example,
    *,
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    max_objects: int,
    needs: MaskSpec,
    flipped: bool,
    resize_backend: ResizeBackend = "cv2",
) -> Sample:
    """The example as fixed shapes, flipped or not, with nothing left to chance."""
    height, width = example.image.shape[:2]
    view = plain_view(
        (height, width), bucket, min_max_size, flipped=flipped, resize_backend=resize_backend
    )
    picture = view.draw(example.image, bucket, resize_backend)
    return _pack(picture, view.size, place(example, view), max_objects, needs)


def _look(
    example: Example, rng: np.random.Generator, config: DataConfig, bucket: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int], list[ViewedObject]]:
    """An example through a random view: canvas, `(height, width)` and objects on it."""
    height, width = example.image.shape[:2]
    view = random_view((height, width), rng, config, bucket)
    return view.draw(example.image, bucket, config.resize_backend), view.size, place(example, view)


def _pack(
    picture: np.ndarray,
    size: tuple[int, int],
    objects: list[ViewedObject],
    max_objects: int,
    needs: MaskSpec,
) -> Sample:
    """The sample. Objects with empty masks are left out where the model needs centres of masks; of
    more than `max_objects` objects the largest stay."""
    if needs.centers:
        objects = [item for item in objects if item.bounds[2] > item.bounds[0]]
    objects = _largest(objects, max_objects)
    boxes = np.zeros((max_objects, 4), np.float32)
    labels = np.zeros(max_objects, np.int32)
    masks = np.zeros((max_objects, *needs.shape((picture.shape[0], picture.shape[1]))), bool)
    centers = np.zeros((max_objects, 2), np.float32) if needs.centers else None
    fill = rasterizer(needs.frame, needs.size)
    for slot, item in enumerate(objects):
        boxes[slot], labels[slot] = item.box, item.label
        fill(item, masks[slot])
        if centers is not None:
            centers[slot] = center_of_mass(item)
    return Sample(
        images=picture,
        image_size=np.asarray(size, np.int32),
        boxes=boxes,
        labels=labels,
        masks=masks,
        valid=np.arange(max_objects) < len(objects),
        centers=centers,
    )


def _largest(objects: list[ViewedObject], count: int) -> list[ViewedObject]:
    """The objects if they are few enough, else the `count` with the largest boxes, in order."""
    if len(objects) <= count:
        return objects
    boxes = np.stack([item.box for item in objects])
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")[:count]
    return [objects[i] for i in np.sort(order).tolist()]
