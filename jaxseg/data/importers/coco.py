"""COCO JSON in any layout that `CocoFolder` reads: COCO, LVIS, Roboflow, CVAT, Label Studio."""

import pathlib
import re
from typing import Any

import numpy as np

from jaxseg.data.coco.file import CocoFile, check_file
from jaxseg.data.coco.layout import is_tfds, list_splits
from jaxseg.data.coco.segmentations import to_rle
from jaxseg.data.importers.files import SourceFiles, head
from jaxseg.data.importers.values import NO_SPLIT, ImportedData, ImportedImage, Object
from jaxseg.data.issues import FATAL, WARNINGS

_BOX_KINDS = {"box-zero", "box-mask", "box-numbers", "box-negative", "box-far", "annotation-area"}
"""Issues of fields that are computed anew from the mask."""
_ADDED_FIELDS = ("attributes", "keypoints", "caption", "extra")
_LISTS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')


def detect(source: pathlib.Path) -> bool:
    """Return whether a source holds COCO JSON."""
    if is_tfds(source):
        return False
    if source.is_file() and source.suffix.lower() != ".json":
        return False
    return any(_LISTS.search(head(split.annotations)) for split in list_splits(source))


def read(files: SourceFiles) -> ImportedData:
    """Read all splits. Entries with issues are counted as lost, by kind."""
    listed = list_splits(files.source, files.images)
    listed = [split for split in listed if _LISTS.search(head(split.annotations))]
    if not listed:
        raise ValueError(f"{files.source} has no COCO JSON")
    splits: dict[str, list[ImportedImage]] = {}
    names: list[str] = []
    contents = []
    for split in listed:
        if split.name in splits:
            raise ValueError(
                f"{files.source} has several annotation files for {split.name!r}, one of them "
                f"{split.annotations}: give the path of one, or remove the others"
            )
        content = check_file(
            split.annotations,
            *split.images,
            allow_outside_files=files.options.allow_outside_files,
        )
        fatal = [issue for issue in content.issues if issue.kind in FATAL]
        if fatal:
            raise ValueError(f"{fatal[0].file}: {fatal[0]}: export it again")
        contents.append(content)
        splits[split.name] = _images(files, content)
    if files.source.is_file():
        splits = {NO_SPLIT: next(iter(splits.values()))}
    for content in contents:
        names += [category.name for category in content.categories if category.name not in names]
    return ImportedData(splits, _without_parents(files, contents, names, splits), files.skipped)


def _images(files: SourceFiles, content: CocoFile) -> list[ImportedImage]:
    """Return the images of a file, without the entries that have issues."""
    lost = {issue.kind for issue in content.issues} - WARNINGS.keys() - _BOX_KINDS
    for issue in content.issues:
        if issue.kind in lost:
            files.skipped.add(issue.kind, f"{content.path.name}: {issue}")
        elif issue.kind in _BOX_KINDS:
            files.skipped.add(
                "bbox or area, replaced by the mask's", f"{content.path.name}: {issue}"
            )
    images, annotations = content.images, content.annotations
    kept = ~content.image_table.has_issue(lost)
    objects: dict[int, list[Object]] = {row: [] for row in np.flatnonzero(kept).tolist()}
    usable = ~content.annotation_table.has_issue(lost)
    usable &= (annotations.image_rows >= 0) & (annotations.labels >= 0)
    for row in np.flatnonzero(usable).tolist():
        image = int(annotations.image_rows[row])
        if image in objects:
            objects[image].append(_object(files, content, row, images.sizes[image].tolist()))
    found = []
    for row, own in objects.items():
        path = content.image_folder / images.names[row]
        size = files.measure(path, tuple(images.sizes[row].tolist()))
        if size is not None:
            found.append(ImportedImage(files.name_of(path), path, size, own))
    return found


def _object(files: SourceFiles, content: CocoFile, row: int, size: list[int]) -> Object:
    entry = content.annotation_table.entries[row]
    for field in _ADDED_FIELDS:
        value = entry.get(field)
        if any(value.values() if isinstance(value, dict) else (value,)):  # CVAT: occluded is false
            files.skipped.add(
                f"field {field!r}", f"{content.path.name}: annotation id {entry['id']}"
            )
    segmentation: Any = entry["segmentation"]
    if not isinstance(segmentation, list):
        segmentation = to_rle(segmentation, *size)
    annotations = content.annotations
    category = content.categories[int(annotations.labels[row])].name
    return Object(category, segmentation, bool(annotations.iscrowd[row]))


def _without_parents(
    files: SourceFiles,
    contents: list[CocoFile],
    names: list[str],
    splits: dict[str, list[ImportedImage]],
) -> list[str]:
    """Leave out categories without objects that are only the supercategory of others.

    Roboflow adds one to each export; a model would have a class for it.
    """
    used = {
        item.category for images in splits.values() for image in images for item in image.objects
    }
    parents = {
        entry.get("supercategory")
        for content in contents
        for entry in content.category_entries
        if isinstance(entry.get("supercategory"), str)
        and entry["supercategory"] != entry.get("name")
    }
    kept = []
    for name in names:
        if name in parents and name not in used:
            files.skipped.add("category without objects that only groups others", repr(name))
        else:
            kept.append(name)
    return kept
