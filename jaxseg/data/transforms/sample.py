"""Turn an example into a training sample: arrays of static shape for one image of a batch.

The terms are those of `jaxseg.data.transforms.resize`; the order of the random changes is that of
`jaxseg.data.transforms.augmentation`.
"""

from typing import NamedTuple

import cv2
import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.data.source import Example, Source
from jaxseg.data.transforms.color import random_color_matrix, transform_colors
from jaxseg.data.transforms.copy_paste import paste_objects, random_subset
from jaxseg.data.transforms.objects import ViewedObject, center_of_mass, view_objects
from jaxseg.data.transforms.rasterize import rasterize
from jaxseg.data.transforms.resize import ResizeBackend
from jaxseg.data.transforms.semantic import paste_semantic, view_semantic
from jaxseg.data.transforms.view import View, full_view, random_view
from jaxseg.types import TargetSpec


class Sample(NamedTuple):
    """One image of a training batch, with the fields of `jaxseg.types.Batch`; masks unpacked."""

    images: np.ndarray  # uint8 [H, W, 3], or float32 from 0 to 255
    image_size: np.ndarray  # int32 [2]
    boxes: np.ndarray  # float32 [N, 4]
    labels: np.ndarray  # int32 [N]
    valid: np.ndarray  # bool [N]
    masks: np.ndarray | None  # bool [N, h, w]
    centers: np.ndarray | None  # float32 [N, 2]
    semantic: np.ndarray | None  # uint8 [H/s, W/s]


def train_sample(
    source: Source,
    index: int,
    rng: np.random.Generator,
    *,
    config: DataConfig,
    bucket: tuple[int, int],
    targets: TargetSpec,
) -> Sample:
    """Return image `index` of a source, changed at random by `config.augmentation`.

    The sample is a pure function of the arguments and the seed of `rng`, a generator that nothing
    has been drawn from.
    """
    augmentation = config.augmentation
    # One generator each, so that pasting and colours do not change the other draws.
    paste_rng, color_rng = rng.spawn(2)
    image, size, objects, semantic = _random_view(source[index], rng, config, bucket, targets)
    copy_paste = augmentation.copy_paste
    if copy_paste is not None and paste_rng.random() < copy_paste.prob:
        other_example = source[int(paste_rng.integers(len(source)))]
        other, _, other_objects, other_semantic = _random_view(
            other_example, paste_rng, config, bucket, targets
        )
        pasted = random_subset(other_objects, paste_rng)
        size, objects, occluded = paste_objects(
            image, size, objects, other, pasted, copy_paste.min_visible_fraction
        )
        if semantic is not None and other_semantic is not None:
            paste_semantic(semantic, other_semantic, occluded)
    if augmentation.color is not None:
        unpadded = image[: size[0], : size[1]]  # a view of `image`, which changes with it
        mean_color = np.asarray(cv2.mean(unpadded)[:3])
        transform_colors(unpadded, random_color_matrix(color_rng, augmentation.color, mean_color))
    return _build_sample(image, size, objects, config.max_objects, targets, semantic)


def make_sample(
    example: Example,
    *,
    bucket: tuple[int, int],
    min_max_size: tuple[int, int] | None,
    max_objects: int,
    targets: TargetSpec,
    flipped: bool,
    resize_backend: ResizeBackend = "cv2",
) -> Sample:
    """Return an example as a sample without random changes, mirrored if `flipped`."""
    height, width = example.image.shape[:2]
    view = full_view(
        (height, width), bucket, min_max_size, flipped=flipped, resize_backend=resize_backend
    )
    image, size, objects, semantic = _apply(view, example, bucket, targets)
    return _build_sample(image, size, objects, max_objects, targets, semantic)


_Viewed = tuple[np.ndarray, tuple[int, int], list[ViewedObject], np.ndarray | None]
"""A padded image, its `(height, width)`, its objects, and its semantic map at a stride."""


def _random_view(
    example: Example,
    rng: np.random.Generator,
    config: DataConfig,
    bucket: tuple[int, int],
    targets: TargetSpec,
) -> _Viewed:
    """Return a random view of an example."""
    height, width = example.image.shape[:2]
    return _apply(random_view((height, width), rng, config, bucket), example, bucket, targets)


def _apply(view: View, example: Example, bucket: tuple[int, int], targets: TargetSpec) -> _Viewed:
    """Return the view of an example, with a semantic map if the targets have one."""
    semantic = None
    if targets.semantic_stride is not None:
        if example.semantic is None:
            raise ValueError(
                f"image id {example.image_id} has no semantic map, which the model learns from"
            )
        semantic = view_semantic(example.semantic, view, bucket, targets.semantic_stride)
    image = view.render(example.image, bucket)
    return image, view.size, view_objects(example, view), semantic


def _build_sample(
    image: np.ndarray,
    size: tuple[int, int],
    objects: list[ViewedObject],
    max_objects: int,
    targets: TargetSpec,
    semantic: np.ndarray | None = None,
) -> Sample:
    """Return the sample of a padded image `[H, W, 3]`, its `(height, width)` and its objects.

    With `targets.centers`, objects with empty masks are left out, since they have no centre. Of
    more than `max_objects` objects the largest are kept.
    """
    if targets.centers:
        objects = [item for item in objects if item.bounds[2] > item.bounds[0]]
    objects = _largest(objects, max_objects)
    boxes = np.zeros((max_objects, 4), np.float32)
    labels = np.zeros(max_objects, np.int32)
    centers = np.zeros((max_objects, 2), np.float32) if targets.centers else None
    masks = None
    if targets.masks is not None:
        bucket = image.shape[0], image.shape[1]
        masks = np.zeros((max_objects, *targets.masks.shape(bucket)), bool)
    for slot, item in enumerate(objects):
        boxes[slot], labels[slot] = item.box, item.label
        if masks is not None and targets.masks is not None:
            rasterize(item, masks[slot], targets.masks)
        if centers is not None:
            centers[slot] = center_of_mass(item)
    return Sample(
        images=image,
        image_size=np.asarray(size, np.int32),
        boxes=boxes,
        labels=labels,
        valid=np.arange(max_objects) < len(objects),
        masks=masks,
        centers=centers,
        semantic=semantic,
    )


def _largest(objects: list[ViewedObject], count: int) -> list[ViewedObject]:
    """Return the `count` objects with the largest boxes, or all if they are fewer, in order."""
    if len(objects) <= count:
        return objects
    boxes = np.stack([item.box for item in objects])
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")[:count]
    return [objects[i] for i in np.sort(order).tolist()]
