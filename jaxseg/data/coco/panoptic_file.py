"""A panoptic annotation file of COCO's format: parsed, checked, and converted to columns.

The maps themselves are read with the images (`jaxseg.data.coco.segment_ids`).
"""

import itertools
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.annotations import Images
from jaxseg.data.coco.file import (
    check_categories,
    check_images,
    files_exist,
    parse,
    without_garbage_collection,
)
from jaxseg.data.coco.segment_ids import MAX_ID, Segments
from jaxseg.data.coco.split import Part
from jaxseg.data.coco.table import Table, find_rows, shorten
from jaxseg.data.issues import Issue, errors
from jaxseg.data.source import Category, is_unicode
from jaxseg.types import IGNORED

_LISTS = ("images", "annotations", "categories")


class PanopticFile(NamedTuple):
    """The readable content of a file, and its issues."""

    path: pathlib.Path
    issues: list[Issue]
    categories: list[Category]
    """The things by id, then the stuff by id."""
    num_things: int
    images: Images
    image_folder: pathlib.Path
    map_names: list[str]
    """The PNG of each image, "" if it has none."""
    segments: Segments
    """The segments of all images, one image after the other."""
    segment_counts: np.ndarray
    """Each image's number of segments, int64 `[images]`."""
    image_issues: list[list[Issue]]
    """The issues of each image, of its annotation and of its segments."""
    part: Part | None

    def issues_without(self, image_ids: Collection[int]) -> list[Issue]:
        """Return the issues, except those of some images."""
        rows = np.flatnonzero(np.isin(self.images.ids, list(image_ids)) & self.images.has_id)
        left_out = {issue for row in rows.tolist() for issue in self.image_issues[row]}
        return [issue for issue in self.issues if issue not in left_out]


class _AnnotationTable(Table):
    """The annotations, which have no ids of their own: one for each image."""

    def where(self, row: int) -> str:
        image_id = self.entries[row].get("image_id")
        return f"image id {image_id}" if type(image_id) is int else super().where(row)


class _SegmentTable(Table):
    """The segments of all annotations, whose ids are unique within an image."""

    def __init__(self, file: str, entries: Sequence[Any], owners: Sequence[str]):
        self._owners = owners
        super().__init__(file, "segments_info", "segment", entries)

    def where(self, row: int) -> str:
        entry_id = self.entries[row].get("id")
        own = f"segment id {entry_id}" if type(entry_id) is int else f"a segment, row {row}"
        return f"{self._owners[row]}, {own}"


def check_panoptic_file(
    path: pathlib.Path,
    *image_folders: pathlib.Path,
    allow_outside_files: bool = False,
    part: Part | None = None,
) -> PanopticFile:
    """Read and check a panoptic file, whose maps are in the folder of its name without `.json`.

    All problems are returned as issues; none raises. Image and map files must exist, but are not
    opened. The arguments are those of `jaxseg.data.coco.file.check_file`.
    """
    with without_garbage_collection():
        content, _ = parse(path, part)
        issues = [content] if isinstance(content, Issue) else []
        lists = {name: [] for name in _LISTS} if isinstance(content, Issue) else content
        if not lists["images"] and not issues:
            issues.append(Issue("split-empty", str(path), "", "images", "there are no images"))
        image_table = Table(str(path), "images", "image", lists["images"])
        table = _AnnotationTable(str(path), "annotations", "annotation", lists["annotations"])
        category_table = Table(str(path), "categories", "category", lists["categories"])
        categories, num_things = _check_categories(category_table)
        image_folder, images = check_images(image_table, image_folders, allow_outside_files)
        annotation_of = _match_images(table, image_table, images)
        map_names, extra = _check_maps(table, path.with_suffix(""))
        segment_table, owners = _list_segments(table)
        segments = _check_segments(segment_table, owners, categories, num_things)
        tables = (category_table, image_table, table, segment_table)
        issues += [issue for checked in tables for issue in checked.issues]
        issues += extra if part is None else []
        if not errors(issues, ()):
            issues += _unused_things(path, segments, categories[:num_things])
        order, counts = _by_image(annotation_of, owners)
        return PanopticFile(
            path=path,
            issues=issues,
            categories=categories,
            num_things=num_things,
            images=images,
            image_folder=image_folder,
            map_names=[map_names[row] if row >= 0 else "" for row in annotation_of.tolist()],
            segments=Segments(*(column[order] for column in segments)),
            segment_counts=counts,
            image_issues=_group_issues(image_table, table, segment_table, images, owners),
            part=part,
        )


def _check_categories(table: Table) -> tuple[list[Category], int]:
    """Return the categories without issues, things first, and the number of things."""
    flags = table.values("isthing")
    for row, flag in enumerate(flags):
        valid = type(flag) in (int, bool) and 0 <= flag <= 1
        if not valid and "isthing" in table.entries[row]:
            message = f"isthing {shorten(flag)} is neither 0 nor 1"
            table.add(row, "category-isthing", "isthing", message)
    categories = check_categories(table)
    things = {
        entry["id"]
        for entry, flag in zip(table.entries, flags, strict=True)
        if flag == 1 and type(entry.get("id")) is int
    }
    if len(categories) > IGNORED:
        message = f"{len(categories)} categories are more than {IGNORED}, which a map can hold"
        table.add(len(table) - 1, "category-count", "", message)
    categories.sort(key=lambda category: (category.id not in things, category.id))
    return categories, sum(category.id in things for category in categories)


def _match_images(table: Table, image_table: Table, images: Images) -> np.ndarray:
    """Return the annotation of each image, int64 `[images]`, -1 for none; add the issues."""
    image_ids, given = table.integers("image_id", "annotation-id")
    rows = np.where(given, find_rows(image_ids, images.ids, images.has_id), -1)
    unknown = np.flatnonzero(given & (rows < 0))
    table.add_all(unknown, "annotation-image", "image_id", "image_id {} is not in images")
    annotation_of = np.full(len(images.ids), -1)
    for row in np.flatnonzero(rows >= 0).tolist():
        first = annotation_of[rows[row]]
        if first >= 0:
            message = f"the image has annotations[{first}] too (this is annotations[{row}])"
            table.add(row, "image-annotated-twice", "image_id", message)
        else:
            annotation_of[rows[row]] = row
    for row in np.flatnonzero((annotation_of < 0) & images.has_id).tolist():
        message = "the image has no annotation, so no panoptic map"
        image_table.add(row, "image-unannotated", "", message)
    return annotation_of


def _check_maps(table: Table, folder: pathlib.Path) -> tuple[list[str], list[Issue]]:
    """Return the file of each annotation, and the issues of files that no annotation names."""
    names = table.values("file_name")
    valid = np.zeros(len(table), bool)
    for row, name in enumerate(names):
        valid[row] = type(name) is str and is_unicode(name) and os.path.basename(name) == name
        valid[row] &= name not in ("", ".", "..")
        if not valid[row] and "file_name" in table.entries[row]:
            message = f"file_name {shorten(name)} is not the name of a file in {folder}"
            table.add(row, "png-name", "file_name", message)
    rows = np.flatnonzero(valid)
    listed = [names[row] for row in rows.tolist()]
    for row in rows[~files_exist(folder, listed)].tolist():
        message = f"there is no file {str(folder / names[row])!r}"
        table.add(row, "png-missing", "file_name", message)
    extra = sorted(_png_names(folder) - set(listed))
    issues = [
        Issue("png-extra", str(folder / name), "", "", "no annotation names this map")
        for name in extra
    ]
    return [name if ok else "" for name, ok in zip(names, valid, strict=True)], issues


def _png_names(folder: pathlib.Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.name.endswith(".png")}
    except OSError:
        return set()


def _list_segments(table: Table) -> tuple[_SegmentTable, np.ndarray]:
    """Return the segments of all annotations, and each one's annotation, int64 `[segments]`."""
    lists = table.values("segments_info")
    for row, entries in enumerate(lists):
        if type(entries) is not list:
            if "segments_info" in table.entries[row]:
                message = f"segments_info {shorten(entries)} is not a list"
                table.add(row, "segment-list", "segments_info", message)
            lists[row] = []
    owners = np.repeat(np.arange(len(table)), [len(entries) for entries in lists])
    names = [table.where(row) for row in range(len(table))]
    entries = list(itertools.chain.from_iterable(lists))
    return _SegmentTable(table.file, entries, [names[row] for row in owners.tolist()]), owners


def _check_segments(
    table: _SegmentTable, owners: np.ndarray, categories: Sequence[Category], num_things: int
) -> Segments:
    """Check the segments, add the issues to their table, and return the columns."""
    ids, has_id = table.integers("id", "segment-id")
    in_range = (ids >= 1) & (ids <= MAX_ID)
    message = f"id {{}} is not from 1 to {MAX_ID}"
    table.add_all(np.flatnonzero(has_id & ~in_range), "segment-id", "id", message)
    for row in _repeated(owners, ids, has_id & in_range):
        table.add(row, "segment-id-duplicate", "id", "an earlier segment of the image has this id")
    category_ids, has_category = table.integers("category_id", "segment-category")
    known = np.asarray([category.id for category in categories], np.int64)
    labels = find_rows(category_ids, known, np.ones(len(known), bool))
    labels[~has_category] = -1
    unknown = np.flatnonzero(has_category & (labels < 0))
    message = "category_id {} is not in categories"
    table.add_all(unknown, "segment-category", "category_id", message)
    for row in _repeated(owners, labels, labels >= num_things):
        name = categories[labels[row]].name
        message = f"the image has an earlier segment of {name}, which is stuff"
        table.add(row, "segment-stuff-twice", "category_id", message)
    values = [entry.get("iscrowd", 0) for entry in table.entries]
    valid = np.asarray([type(v) in (int, bool) and 0 <= v <= 1 for v in values], bool)
    message = "iscrowd {} is neither 0 nor 1"
    table.add_all(np.flatnonzero(~valid), "segment-crowd", "iscrowd", message)
    iscrowd = np.asarray([v == 1 for v in values], bool)
    return Segments(ids, labels, iscrowd, _areas(table), _boxes(table))


def _repeated(owners: np.ndarray, values: np.ndarray, valid: np.ndarray) -> list[int]:
    """Return the valid rows whose annotation has an earlier row of the same value."""
    rows = np.flatnonzero(valid)
    pairs = np.stack([owners[rows], values[rows]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return np.setdiff1d(rows, rows[first]).tolist()


def _areas(table: Table) -> np.ndarray:
    """Return each segment's area, int64 `[segments]`, -1 if it is not given."""
    values = [entry.get("area", -1) for entry in table.entries]
    given = np.asarray(["area" in entry for entry in table.entries], bool)
    whole = np.asarray([_is_whole(value) and value >= 0 for value in values], bool)
    message = "area {} is not a whole number of at least 0"
    table.add_all(np.flatnonzero(given & ~whole), "segment-area", "area", message)
    return np.asarray([v if ok else -1 for v, ok in zip(values, whole, strict=True)], np.int64)


def _boxes(table: Table) -> np.ndarray:
    """Return each segment's box, int64 `[segments, 4]`, xyxy, -1 if it is not given."""
    boxes = np.full((len(table), 4), -1, np.int64)
    for row, entry in enumerate(table.entries):
        if "bbox" not in entry:
            continue
        box = entry["bbox"]
        if type(box) is list and len(box) == 4 and all(_is_whole(v) and v >= 0 for v in box):
            x, y, width, height = map(int, box)
            boxes[row] = x, y, x + width, y + height
        else:
            message = f"bbox {shorten(box)} is not four whole numbers (x, y, width, height)"
            table.add(row, "segment-box", "bbox", message)
    return boxes


def _is_whole(value: Any) -> bool:
    """Return whether a value of JSON is a whole number that fits a pixel count."""
    return type(value) in (int, float) and abs(value) < 1 << 53 and value == int(value)


def _unused_things(
    path: pathlib.Path, segments: Segments, things: Sequence[Category]
) -> list[Issue]:
    """Return an issue if classes of things have no segment, or only crowds."""
    used = np.bincount(segments.labels[~segments.iscrowd], minlength=len(things))
    unused = [category for category, count in zip(things, used, strict=False) if not count]
    if not unused:
        return []
    where = "category id " + ", ".join(str(category.id) for category in unused)
    message = f"no instance of {len(unused)} of {len(things)} classes of things"
    return [Issue("category-without-instances", str(path), where, "", message)]


def _by_image(annotation_of: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the segments by image, int64, and each image's number of them."""
    image_of = np.full(owners.max(initial=-1) + 1, -1)
    used = (annotation_of >= 0) & (annotation_of < len(image_of))
    image_of[annotation_of[used]] = np.flatnonzero(used)
    images = image_of[owners]
    rows = np.flatnonzero(images >= 0)
    order = rows[np.argsort(images[rows], kind="stable")]
    return order, np.bincount(images[rows], minlength=len(annotation_of))


def _group_issues(
    image_table: Table, table: Table, segment_table: Table, images: Images, owners: np.ndarray
) -> list[list[Issue]]:
    """Return the issues of each image, of its annotations and of their segments."""
    found: list[list[Issue]] = [[] for _ in range(len(images.ids))]
    ids = [entry.get("image_id") for entry in table.entries]
    row_of = {int(i): row for row, i in enumerate(images.ids) if images.has_id[row]}
    image_of = [row_of.get(i, -1) if type(i) is int else -1 for i in ids]
    for row, issue in image_table.issues_by_row():
        found[row].append(issue)
    for row, issue in table.issues_by_row():
        if image_of[row] >= 0:
            found[image_of[row]].append(issue)
    for row, issue in segment_table.issues_by_row():
        if image_of[owners[row]] >= 0:
            found[image_of[owners[row]]].append(issue)
    return found
