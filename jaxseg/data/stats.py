"""The health of a data set: what is in it, and what training would lose or distort.

`scan` reads every image of any `Source` once; `scan_folder` does so for a COCO-format folder,
and adds what is wrong with its annotations (`jaxseg.data.issues`), or for a TFDS set. Sizes of
objects are COCO's, by the pixels of the mask: small below 32x32, large from 96x96 on. Crowds are
counted apart.
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
from jaxseg.data.coco.folder import CocoSource, find_split, list_splits
from jaxseg.data.images import ImageSizeError
from jaxseg.data.issues import IGNORABLE, WARNINGS, Issue
from jaxseg.data.source import Source
from jaxseg.data.tfds import TfdsFolder, split_names
from jaxseg.data.transforms.resize import scaled_size

Progress = Callable[[int, int], None]
"""Is told how many images of how many are done."""
_SIZES = (32**2, 96**2)


class DatasetStats(NamedTuple):
    """What a split holds, as far as it can be read."""

    split: str
    images: int
    classes: dict[str, np.ndarray]
    """int64 `[3]` for each category: small, medium and large objects."""
    crowds: int
    empty_images: int
    empty_masks: int
    """Masks that cover no pixel's centre."""
    sizes: np.ndarray
    """int32 `[n, 2]`: `(height, width)` of the images."""
    digests: dict[bytes, list[int]]
    """The ids of the images with each content; those with several ids are duplicates."""
    lost_objects: int
    """Objects beyond `max_objects` in their images."""
    tiny: int | None
    """Objects with a side of less than a pixel once their image is on the canvas."""
    issues: list[Issue]


class ImageStats(NamedTuple):
    """What is kept of an image that was read."""

    image_id: int
    digest: bytes
    labels: np.ndarray
    areas: np.ndarray
    sides: np.ndarray  # [n, 2], width and height of the boxes
    iscrowd: np.ndarray


def scan(
    source: Source,
    *,
    split: str,
    file: str,
    max_objects: int,
    bucket: tuple[int, int] | None = None,
    progress: Progress = lambda done, total: None,
) -> DatasetStats:
    """Reads all of a source, in several threads. `file` is what its defects are said to be in.

    Images that cannot be read are defects, and so are more than `max_objects` objects in one.
    With a `bucket` `(height, width)` it counts objects that become smaller than a pixel when
    their images are shrunk to fit.
    """
    looks: list[ImageStats] = []
    issues: list[Issue] = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(lambda index: _look(source, index, file), range(len(source)))
        for done, result in enumerate(results, start=1):
            progress(done, len(source))
            if isinstance(result, Issue):
                issues.append(result)
            else:
                looks.append(result)
    issues += [issue for look in looks for issue in _truncation(look, max_objects, file)]
    digests: dict[bytes, list[int]] = collections.defaultdict(list)
    for look in looks:
        digests[look.digest].append(look.image_id)
    counts = np.zeros((len(source.categories), 3), np.int64)
    for look in looks:
        kinds = np.digitize(look.areas, _SIZES)
        np.add.at(counts, (look.labels[~look.iscrowd], kinds[~look.iscrowd]), 1)
    sizes = dict(zip(source.image_ids, source.image_sizes.tolist(), strict=True))
    return DatasetStats(
        split=split,
        images=len(source),
        classes={c.name: row for c, row in zip(source.categories, counts, strict=True)},
        crowds=sum(int(look.iscrowd.sum()) for look in looks),
        empty_images=sum(len(look.labels) == 0 for look in looks),
        empty_masks=sum(int((look.areas == 0).sum()) for look in looks),
        lost_objects=sum(max(int((~k.iscrowd).sum()) - max_objects, 0) for k in looks),
        sizes=source.image_sizes,
        digests=dict(digests),
        tiny=None if bucket is None else sum(_tiny(k, sizes[k.image_id], bucket) for k in looks),
        issues=issues,
    )


def _look(source: Source, index: int, file: str) -> ImageStats | Issue:
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


def _truncation(look: ImageStats, max_objects: int, file: str) -> list[Issue]:
    count = int((~look.iscrowd).sum())
    if count <= max_objects:
        return []
    message = (
        f"{count} objects, of which training would see the {max_objects} largest: "
        f"raise max_objects to {count}"
    )
    where = f"image id {look.image_id}"
    return [Issue("objects-truncated", file, where, "annotations", message)]


def _tiny(look: ImageStats, size: Sequence[int], bucket: tuple[int, int]) -> int:
    height, width = scaled_size((size[0], size[1]), bucket, None)
    sides = look.sides[~look.iscrowd] * [width / size[1], height / size[0]]
    return int((sides < 1).any(1).sum())


def scan_folder(
    folder: pathlib.Path,
    *,
    split: str | None = None,
    max_objects: int = 100,
    bucket: tuple[int, int] | None = None,
    progress: Progress = lambda done, total: None,
) -> list[DatasetStats]:
    """The health of a split of a COCO-format folder or a TFDS set, or of all its splits.

    Whatever is wrong is among the defects. Raises FileNotFoundError or ValueError if there is no
    such split.
    """
    is_set = (folder / "dataset_info.json").is_file()
    parts = _set_sources(folder, split) if is_set else _folder_sources(folder, split)
    found = []
    for name, file, source, issues in parts:
        health = scan(
            source,
            split=name,
            file=file,
            max_objects=max_objects,
            bucket=bucket,
            progress=progress,
        )
        found.append(health._replace(issues=[*issues, *health.issues]))
    return found


_Part = tuple[str, str, Source, Sequence[Issue]]
"""The name of a split, the file it is in, what can be read of it, and what is wrong with it."""


def _folder_sources(folder: pathlib.Path, split: str | None) -> Iterator[_Part]:
    splits = [find_split(folder, split)] if split is not None else list_splits(folder)
    if not splits:
        find_split(folder, "train")  # raises, and says what is looked for
    for name, path, images in splits:
        content = check_file(path, images)
        source = CocoSource(content, images, IGNORABLE.keys() - WARNINGS.keys())
        yield name, str(path), source, content.issues


def _set_sources(path: pathlib.Path, split: str | None) -> Iterator[_Part]:
    for name in [split] if split is not None else split_names(path):
        yield name, f"{path}, split {name}", TfdsFolder(str(path)).open(name), ()
