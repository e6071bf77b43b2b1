"""`jaxseg data show`: a page of samples, as they are annotated and as they reach the model."""

import pathlib

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg import data, visualize
from jaxseg.data.panoptic import (
    PanopticMap,
    PanopticSource,
    Segment,
    num_semantic_classes,
    thing_categories,
)
from jaxseg.data.proposal import data_config, propose
from jaxseg.data.source import Example
from jaxseg.data.transforms.resize import choose_buckets
from jaxseg.data.transforms.sample import train_sample
from jaxseg.files import prepare_output_file
from jaxseg.types import IGNORED, ImageMasks, TargetSpec

PANEL = 480
"""Height and width of a picture on the page."""
SUFFIXES = (".png", ".jpg", ".jpeg")
"""The formats of a page."""
DRAWS = 2
"""Random draws of each image as training samples."""


def show(
    config: data.SourceConfig,
    out: pathlib.Path,
    *,
    split: str = "train",
    count: int = 6,
    seed: int = 0,
) -> list[int]:
    """Write a picture with a row for each of some images, and return the images' ids.

    A row has the image with its annotations, then two random draws of it as a training sample:
    resized, augmented and padded, with the masks that training targets are made of, and with the
    panoptic or semantic map if there is one.

    Args:
        config: the data, for which settings are proposed.
        out: the PNG or JPEG to write.
        split: the split of the data.
        count: number of images, spread evenly over the split.
        seed: seed of the augmentation.

    Raises ValueError if `out` has another ending.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"--out {out} must end in {' or '.join(SUFFIXES)}: name the picture {out.name}.png"
        )
    prepare_output_file(out)
    source = config.open(split)
    settings = data_config(config, propose(source))
    chosen = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)).tolist()
    buckets = choose_buckets(source.image_sizes[chosen], settings.buckets, settings.min_max_size)
    rows = [
        _row(source, index, settings, settings.buckets[bucket], seed)
        for index, bucket in zip(chosen, buckets.tolist(), strict=True)
    ]
    visualize.save_picture(out, np.concatenate(rows, axis=0))
    return [int(source.image_ids[index]) for index in chosen]


def _row(
    source: data.Source, index: int, config: data.DataConfig, bucket: tuple[int, int], seed: int
) -> np.ndarray:
    """Return the pictures of one image beside each other, uint8 `[PANEL + title, w, 3]`."""
    example = source[index]
    title = f"image id {example.image_id}: {len(example.boxes)} annotations"
    panels = [visualize.with_title(_fit(_draw_example(source, index, example)), title)]
    has_maps = num_semantic_classes(source) is not None
    targets = TargetSpec(ImageMasks(1), semantic_stride=1 if has_maps else None)
    for draw in range(DRAWS):
        sample = train_sample(
            source,
            index,
            np.random.default_rng([seed, index, draw]),
            config=config,
            bucket=bucket,
            targets=targets,
        )
        assert sample.masks is not None
        kept = sample.valid
        image = np.clip(sample.images, 0, 255).astype(np.uint8)
        objects = Example(
            image=image,
            image_id=example.image_id,
            boxes=sample.boxes[kept],
            labels=sample.labels[kept],
            rles=[mask_api.encode(np.asfortranarray(m, np.uint8)) for m in sample.masks[kept]],
            iscrowd=np.zeros(int(kept.sum()), bool),
            semantic=sample.semantic,
        )
        height, width = sample.image_size.tolist()
        title = f"sample {height}x{width} in {bucket[0]}x{bucket[1]}: {int(kept.sum())} objects"
        panels.append(visualize.with_title(_fit(_draw(source, objects)), title))
    return np.concatenate(panels, axis=1)


def _draw_example(source: data.Source, index: int, example: Example) -> np.ndarray:
    """Draw an image as it is annotated, uint8 RGB."""
    if not isinstance(source, PanopticSource):
        return _draw(source, example)
    names = [category.name for category in source.categories]
    panoptic = source.panoptic_map(index)
    return visualize.draw_panoptic(example.image, panoptic, names, source.num_things)


def _draw(source: data.Source, example: Example) -> np.ndarray:
    """Draw the objects, and the classes of the semantic map around them, uint8 RGB."""
    names = [category.name for category in source.categories]
    if example.semantic is None:
        return visualize.draw_instances(
            example.image, example.boxes, example.labels, names, example.rles
        )
    first = 0  # the label of the map's first class
    if not isinstance(source, PanopticSource):  # whose classes have no names
        first = len(names)
        names += [f"class {number}" for number in range(num_semantic_classes(source) or 0)]
    ids = np.zeros(example.semantic.shape, np.int32)
    segments = [Segment(number, label) for number, label in enumerate(example.labels.tolist(), 1)]
    for label in np.unique(example.semantic[example.semantic != IGNORED]).tolist():
        segments.append(Segment(len(segments) + 1, first + label))
        ids[example.semantic == label] = len(segments)
    for number, rle in enumerate(example.rles, start=1):  # over the classes
        ids[mask_api.decode(rle) > 0] = number
    visible = [segment for segment in segments if (ids == segment.id).any()]
    num_things = len(thing_categories(source))
    return visualize.draw_panoptic(example.image, PanopticMap(ids, visible), names, num_things)


def _fit(picture: np.ndarray) -> np.ndarray:
    """Return a picture shrunk or enlarged to fit a panel, with white around it."""
    scale = PANEL / max(picture.shape[:2])
    height, width = (max(round(side * scale), 1) for side in picture.shape[:2])
    filter_ = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    panel = np.full((PANEL, PANEL + 4, 3), 255, np.uint8)
    panel[:height, :width] = cv2.resize(picture, (width, height), interpolation=filter_)
    return panel
