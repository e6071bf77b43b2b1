"""Statistics of a dataset, and the issues that affect training.

`scan` reads every image of any `Source` once. `scan_folder` scans the splits of a COCO-format
folder, with the issues of its annotations (`jaxseg.data.issues`), or of a TFDS dataset. Object
sizes are COCO's, by the pixels of the mask: small is below 32x32, large is 96x96 and more. Crowds
are counted separately.
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

from jaxseg.data.coco.file import check_file
from jaxseg.data.coco.folder import CocoSource
from jaxseg.data.coco.layout import find_split, is_tfds, list_splits
from jaxseg.data.images import ImageSizeError
from jaxseg.data.issues import IGNORABLE, WARNINGS, Issue
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
    """int64 `[3]` for each category: small, medium and large objects."""
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
    issues: list[Issue]


class ImageStats(NamedTuple):
    """Statistics of one image with n objects."""

    image_id: int
    digest: bytes
    labels: np.ndarray  # int32 [n]
    areas: np.ndarray  # int64 [n], pixels of the masks
    sides: np.ndarray  # float32 [n, 2], width and height of the boxes
    iscrowd: np.ndarray  # bool [n]


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

    The issues are images that cannot be read and images with more than `max_objects` objects.

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
            if isinstance(result, Issue):
                issues.append(result)
            else:
                scanned.append(result)
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
        issues=issues,
    )


def _scan_image(source: Source, index: int, file: str) -> ImageStats | Issue:
    image_id = source.image_ids[index]
    try:
        example = source[index]
    except (ValueError, OSError) as error:
        kind = "image-size-differs" if isinstance(error, ImageSizeError) else "image-unreadable"
        return Issue(kind, file, f"image id {image_id}", "file_name", str(error))
    digest = hashlib.blake2b(np.ascontiguousarray(example.image).data, digest_size=16)
    digest.update(str(example.image.shape).encode())
    areas = np.asarray([int(mask_api.area(rle)) for rle in example.rles], np.int64)
    sides = example.boxes[:, 2:] - example.boxes[:, :2]
    return ImageStats(image_id, digest.digest(), example.labels, areas, sides, example.iscrowd)


def _count_classes(source: Source, images: Sequence[ImageStats]) -> dict[str, np.ndarray]:
    counts = np.zeros((len(source.categories), 3), np.int64)
    for image in images:
        size_class = np.digitize(image.areas, _AREA_LIMITS)  # [n], 0 to 2
        is_object = ~image.iscrowd
        np.add.at(counts, (image.labels[is_object], size_class[is_object]), 1)
    return {c.name: row for c, row in zip(source.categories, counts, strict=True)}


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
    folder: pathlib.Path,
    *,
    split: str | None = None,
    max_objects: int = 100,
    bucket: tuple[int, int] | None = None,
    images: pathlib.Path | None = None,
    allow_outside_files: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[DatasetStats]:
    """Scan one split, or all, of a COCO-format folder or a TFDS dataset.

    Invalid annotations are among the issues; so are file names that leave the image folder, unless
    `allow_outside_files`. `images` is the folder of the images, where the layout of a COCO folder
    does not say it. Raises FileNotFoundError or ValueError if there is no such split.
    """
    opened = (
        _open_tfds(folder, split)
        if is_tfds(folder)
        else _open_coco(folder, split, images, allow_outside_files)
    )
    found = []
    for name, file, source, issues in opened:
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


class _OpenedSplit(NamedTuple):
    """The readable part of a split, and the issues of the rest."""

    name: str
    file: str
    source: Source
    issues: Sequence[Issue]


def _open_coco(
    folder: pathlib.Path, split: str | None, images: pathlib.Path | None, allow_outside_files: bool
) -> Iterator[_OpenedSplit]:
    splits = (
        [find_split(folder, split, images)] if split is not None else list_splits(folder, images)
    )
    if not splits:
        find_split(folder, "train")  # raises an error that names the files it needs
    for name, path, image_folders, _ in splits:
        content = check_file(path, *image_folders, allow_outside_files=allow_outside_files)
        source = CocoSource(content, IGNORABLE.keys() - WARNINGS.keys())
        yield _OpenedSplit(name, str(path), source, content.issues)


def _open_tfds(path: pathlib.Path, split: str | None) -> Iterator[_OpenedSplit]:
    for name in [split] if split is not None else split_names(path):
        yield _OpenedSplit(name, f"{path}, split {name}", TfdsFolder(str(path)).open(name), ())
