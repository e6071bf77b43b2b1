"""Statistics of a dataset, and the issues that affect training.

`scan` reads every image of any `Source` once, with its panoptic or semantic map if there is one.
`scan_folder` scans the splits of a COCO-format folder, with the issues of its annotations
(`jaxseg.data.issues`), or of a TFDS dataset. Object sizes are COCO's, by the pixels of the mask:
small is below 32x32, large is 96x96 and more. Crowds are counted separately.
"""

import collections
import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.folder import CocoFolder
from jaxseg.data.images import ImageSizeError
from jaxseg.data.issues import Issue, IssuesError
from jaxseg.data.panoptic import PanopticSource, num_semantic_classes, thing_categories
from jaxseg.data.source import Source
from jaxseg.data.tfds import TfdsFolder, split_names
from jaxseg.data.transforms.resize import scaled_size

Progress = Callable[[int, int], None]
"""Called after each image with the number of images read and their total."""
_AREA_LIMITS = (32**2, 96**2)


class DatasetStats(NamedTuple):
    """Statistics of a split, over the images that can be read."""

    split: str
    images: int
    """All images of the split, readable or not."""
    class_counts: dict[str, np.ndarray]
    """int64 `[3]` for each category of objects: small, medium and large ones."""
    crowds: int
    empty_images: int
    """Images without objects or crowds."""
    empty_masks: int
    """Masks that contain no pixel's centre."""
    image_sizes: np.ndarray
    """int32 `[n, 2]`: `(height, width)`."""
    ids_by_digest: dict[bytes, list[int]]
    """Image ids by a hash of the pixels; images with the same one are duplicates."""
    truncated_objects: int
    """Objects beyond `max_objects` in their images."""
    subpixel_objects: int | None
    """Objects with a side of less than a pixel once their image fits the bucket."""
    semantic: "SemanticStats | None"
    """None without semantic maps."""
    issues: list[Issue]


class SemanticStats(NamedTuple):
    """Statistics of the semantic maps of a split."""

    names: list[str]
    """The name of each class; its number if the maps have classes of their own."""
    num_things: int
    """The number of things, the first ones, of panoptic maps; 0 otherwise."""
    images: np.ndarray
    """int64 `[256]`: the images with each value."""
    pixels: np.ndarray
    """int64 `[256]`: the pixels of each value."""


class ImageStats(NamedTuple):
    """Statistics of one image with n objects."""

    image_id: int
    digest: bytes
    labels: np.ndarray  # int32 [n]
    areas: np.ndarray  # int64 [n], pixels of the masks
    sides: np.ndarray  # float32 [n, 2], width and height of the boxes
    iscrowd: np.ndarray  # bool [n]
    semantic: np.ndarray | None  # int64 [256], pixels of each value of the semantic map


def scan(
    source: Source,
    *,
    split: str,
    file: str,
    max_objects: int,
    bucket: tuple[int, int] | None = None,
    progress: Progress = lambda done, total: None,
) -> DatasetStats:
    """Read all examples of a source, in several threads, and collect statistics and issues.

    The issues are images and maps that cannot be read, panoptic maps that are not those of their
    segments, and images with more than `max_objects` objects.

    Args:
        source: the split to read.
        split: its name, for the result.
        file: the file that issues name.
        max_objects: the objects of an image that training keeps.
        bucket: `(height, width)`; if given, objects are counted that become smaller than a pixel
            when their images are shrunk to fit.
        progress: called after each image.
    """
    scanned: list[ImageStats] = []
    issues: list[Issue] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(lambda index: _scan_image(source, index, file), range(len(source)))
        for done, result in enumerate(results, start=1):
            progress(done, len(source))
            if isinstance(result, ImageStats):
                scanned.append(result)
            else:
                issues += result
    issues += [issue for image in scanned for issue in _truncation(image, max_objects, file)]
    sizes = dict(zip(source.image_ids, source.image_sizes.tolist(), strict=True))
    return DatasetStats(
        split=split,
        images=len(source),
        class_counts=_count_classes(source, scanned),
        crowds=sum(int(image.iscrowd.sum()) for image in scanned),
        empty_images=sum(len(image.labels) == 0 for image in scanned),
        empty_masks=sum(int((image.areas == 0).sum()) for image in scanned),
        image_sizes=source.image_sizes,
        ids_by_digest=_group_by_digest(scanned),
        truncated_objects=sum(max(_object_count(i) - max_objects, 0) for i in scanned),
        subpixel_objects=None
        if bucket is None
        else sum(_subpixel_objects(image, sizes[image.image_id], bucket) for image in scanned),
        semantic=_sum_semantic(source, scanned),
        issues=issues,
    )


def _scan_image(source: Source, index: int, file: str) -> ImageStats | Sequence[Issue]:
    image_id = source.image_ids[index]
    try:
        example = source[index]
    except IssuesError as error:
        return error.issues
    except (ValueError, OSError) as error:
        kind = "image-size-differs" if isinstance(error, ImageSizeError) else "image-unreadable"
        return [Issue(kind, file, f"image id {image_id}", "file_name", str(error))]
    digest = hashlib.blake2b(np.ascontiguousarray(example.image).data, digest_size=16)
    digest.update(str(example.image.shape).encode())
    areas = np.asarray([int(mask_api.area(rle)) for rle in example.rles], np.int64)
    sides = example.boxes[:, 2:] - example.boxes[:, :2]
    semantic = example.semantic
    return ImageStats(
        image_id=image_id,
        digest=digest.digest(),
        labels=example.labels,
        areas=areas,
        sides=sides,
        iscrowd=example.iscrowd,
        semantic=None if semantic is None else np.bincount(semantic.ravel(), minlength=256),
    )


def _sum_semantic(source: Source, images: Sequence[ImageStats]) -> SemanticStats | None:
    classes = num_semantic_classes(source)
    if classes is None:
        return None
    is_panoptic = isinstance(source, PanopticSource)
    names = [c.name for c in source.categories] if is_panoptic else list(map(str, range(classes)))
    found = [image.semantic for image in images if image.semantic is not None]
    pixels = np.reshape(found, (-1, 256)).astype(np.int64)
    num_things = source.num_things if isinstance(source, PanopticSource) else 0
    return SemanticStats(names, num_things, (pixels > 0).sum(0), pixels.sum(0))


def _count_classes(source: Source, images: Sequence[ImageStats]) -> dict[str, np.ndarray]:
    categories = thing_categories(source)
    counts = np.zeros((len(categories), 3), np.int64)
    for image in images:
        size_class = np.digitize(image.areas, _AREA_LIMITS)  # [n], 0 to 2
        is_object = ~image.iscrowd
        np.add.at(counts, (image.labels[is_object], size_class[is_object]), 1)
    return {c.name: row for c, row in zip(categories, counts, strict=True)}


def _group_by_digest(images: Sequence[ImageStats]) -> dict[bytes, list[int]]:
    ids_by_digest: dict[bytes, list[int]] = collections.defaultdict(list)
    for image in images:
        ids_by_digest[image.digest].append(image.image_id)
    return dict(ids_by_digest)


def _object_count(image: ImageStats) -> int:
    return int((~image.iscrowd).sum())


def _truncation(image: ImageStats, max_objects: int, file: str) -> list[Issue]:
    """Return an issue if the image has more than `max_objects` objects."""
    count = _object_count(image)
    if count <= max_objects:
        return []
    message = (
        f"{count} objects, of which training keeps the {max_objects} largest: "
        f"set max_objects to {count} or more"
    )
    where = f"image id {image.image_id}"
    return [Issue("objects-truncated", file, where, "annotations", message)]


def _subpixel_objects(image: ImageStats, size: Sequence[int], bucket: tuple[int, int]) -> int:
    height, width = scaled_size((size[0], size[1]), bucket, None)
    sides = image.sides[~image.iscrowd] * [width / size[1], height / size[0]]
    return int((sides < 1).any(1).sum())


def scan_folder(
    config: CocoFolder | TfdsFolder,
    *,
    split: str | None = None,
    max_objects: int = 100,
    bucket: tuple[int, int] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[DatasetStats]:
    """Scan one split, or all, of a COCO-format folder or a TFDS dataset.

    Invalid annotations are among the issues. Raises FileNotFoundError or ValueError if there is no
    such split.
    """
    checked = config.check(split) if isinstance(config, CocoFolder) else _open_tfds(config, split)
    found = []
    for name, file, source, issues in checked:
        stats = scan(
            source,
            split=name,
            file=file,
            max_objects=max_objects,
            bucket=bucket,
            progress=progress,
        )
        found.append(stats._replace(issues=[*issues, *stats.issues]))
    return found


def _open_tfds(
    config: TfdsFolder, split: str | None
) -> Iterator[tuple[str, str, Source, Sequence[Issue]]]:
    path = pathlib.Path(config.path)
    for name in [split] if split is not None else split_names(path):
        yield name, f"{path}, split {name}", config.open(name), ()
