"""A COCO annotation file: parsed, checked, and converted to columns.

Each check covers a whole column at once (`jaxseg.data.coco.table`). COCO's train2017 has a million
entries and tens of millions of coordinates, which would take Python minutes one by one. LVIS files
differ in that images have a `coco_url` and no `file_name`, and annotations have no `iscrowd`.
"""

import contextlib
import gc
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.annotations import Annotations, Images, check_annotations
from jaxseg.data.coco.split import Part, select_part
from jaxseg.data.coco.table import Table, shorten
from jaxseg.data.images import MAX_PIXELS
from jaxseg.data.issues import Issue
from jaxseg.data.source import HALF_PAIR, Category, is_unicode
from jaxseg.files import open_regular

_LISTS = ("images", "annotations", "categories")


class CocoFile(NamedTuple):
    """The readable content of a file, and its issues."""

    path: pathlib.Path
    issues: list[Issue]
    categories: list[Category]
    image_table: Table
    images: Images
    annotation_table: Table
    annotations: Annotations
    digest: str
    """SHA-256 of the file's bytes; empty if it cannot be read."""
    image_folder: pathlib.Path
    part: Part | None
    category_entries: Sequence[dict[str, Any]]
    semantic_folder: pathlib.Path | None = None

    def issues_without(self, image_ids: Collection[int]) -> list[Issue]:
        """Return the issues, except those of some images and of their annotations."""
        images = np.isin(self.images.ids, list(image_ids)) & self.images.has_id
        annotations = np.isin(self.annotations.image_rows, np.flatnonzero(images))
        left_out = {
            *self.image_table.issues_of(images),
            *self.annotation_table.issues_of(annotations),
        }
        return [issue for issue in self.issues if issue not in left_out]


def check_file(
    path: pathlib.Path,
    *image_folders: pathlib.Path,
    allow_outside_files: bool = False,
    part: Part | None = None,
    semantic_folders: Sequence[pathlib.Path] = (),
) -> CocoFile:
    """Read and check a COCO file. All problems are returned as issues; none raises.

    Image files must exist, but are not opened. Of several `image_folders`, the one that holds the
    most images is taken. Unless `allow_outside_files`, the names must not leave it by an absolute
    path or `..`; a link in that folder may. With `part`, only these images are read; ValueError if
    the file has too few. Each image must have a semantic map in the one of `semantic_folders` with
    the most, if there are any. The tables keep the parsed JSON in memory.
    """
    with without_garbage_collection():
        content, digest = parse(path, part)
        issues = [content] if isinstance(content, Issue) else []
        lists = {name: [] for name in _LISTS} if isinstance(content, Issue) else content
        if not lists["images"] and not issues:
            issues.append(Issue("split-empty", str(path), "", "images", "there are no images"))
        names = zip(_LISTS, ("image", "annotation", "category"), strict=True)
        tables = [Table(str(path), name, item, lists[name]) for name, item in names]
        image_table, annotation_table, category_table = tables
        categories = check_categories(category_table)
        image_folder, images = check_images(image_table, image_folders, allow_outside_files)
        semantic_folder = _check_semantic_maps(
            image_table, images.names, image_folder, semantic_folders
        )
        annotations = check_annotations(annotation_table, images, categories)
        for table in (category_table, image_table, annotation_table):
            issues += table.issues
        return CocoFile(
            path,
            issues,
            categories,
            image_table,
            images,
            annotation_table,
            annotations,
            digest,
            image_folder,
            part,
            category_table.entries,
            semantic_folder,
        )


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: with millions of new objects it would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(path: pathlib.Path, part: Part | None = None) -> tuple[dict[str, Any] | Issue, str]:
    """Parse a COCO file, or one part; return its content and the SHA-256 of the file's bytes.

    Raises ValueError if the file has too few images for a part.
    """
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            content = _content(path, file)
    except OSError as error:
        return Issue("file-json", str(path), "", "", f"it cannot be read: {error}"), ""
    if part is None or isinstance(content, Issue):
        return content, digest
    try:
        return select_part(content, part), digest
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _content(path: pathlib.Path, file: io.BufferedReader) -> dict[str, Any] | Issue:
    """Parse a JSON object with lists of images, annotations and categories."""
    try:
        with without_garbage_collection():
            # Without names: the bytes and the text of a large file are freed as soon as possible.
            content = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Issue("file-json", str(path), "", "", f"it is not valid JSON: {error}")
    if not isinstance(content, dict):
        message = f"it is not in COCO format: {shorten(content)} is not a JSON object"
        return Issue("file-coco", str(path), "", "", message)
    missing = [name for name in _LISTS if type(content.get(name)) is not list]
    if missing:
        message = f"it is not in COCO format: there is no list of {', '.join(missing)}"
        return Issue("file-coco", str(path), "", missing[0], message)
    return content


def check_categories(table: Table) -> list[Category]:
    """Return the categories without issues, by id."""
    ids, has_id = table.integers("id", "category-id")
    table.check_unique(ids.tolist(), has_id, "id")
    names = table.values("name")
    for row, name in enumerate(names):
        if type(name) is not str and "name" in table.entries[row]:
            table.add(row, "category-name", "name", f"name {shorten(name)} is not text")
        elif type(name) is str and not is_unicode(name):
            table.add(row, "category-name", "name", f"name {shorten(name)} {HALF_PAIR}")
    valid = np.flatnonzero(~table.has_issue()).tolist()
    return sorted(Category(int(ids[row]), names[row]) for row in valid)


def check_images(
    table: Table, folders: Sequence[pathlib.Path], allow_outside_files: bool
) -> tuple[pathlib.Path, Images]:
    """Return the folder that holds the most images, and the columns."""
    ids, has_id = table.integers("id", "image-id")
    table.check_unique(ids.tolist(), has_id, "id")
    height, has_height = table.integers("height", "image-size")
    width, has_width = table.integers("width", "image-size")
    sizes = np.stack([height, width], axis=1)
    has_size = has_height & has_width
    # Clipped sides cannot overflow in the product.
    in_range = (sizes > 0).all(1) & (sizes.clip(0, MAX_PIXELS).prod(1) <= MAX_PIXELS)
    for row in np.flatnonzero(has_size & ~in_range).tolist():
        message = f"{width[row]}x{height[row]} (width x height) is not 1 to {MAX_PIXELS} pixels"
        table.add(row, "image-size", "height, width", message)
    names, has_name = _check_names(table)
    table.check_unique(names, has_name, "file_name")
    if not allow_outside_files:
        has_name &= ~_check_inside(table, names)
    rows = np.flatnonzero(has_name)
    folder, exists = choose_folder(folders, [names[row] for row in rows.tolist()])
    for row in rows[~exists].tolist():
        message = f"there is no file {str(folder / names[row])!r}"
        table.add(row, "image-missing", "file_name", message)
    has_size &= in_range
    return folder, Images(ids, has_id, sizes * has_size[:, None], has_size, names)


def _check_names(table: Table) -> tuple[list[str], np.ndarray]:
    """Return each image's file, relative to the image folder, and which images have one."""
    names: list[str] = []
    valid = np.zeros(len(table), bool)
    for row, entry in enumerate(table.entries):
        field = "coco_url" if "coco_url" in entry and "file_name" not in entry else "file_name"
        name: Any = entry.get(field)
        valid[row] = type(name) is str and name != ""
        if not valid[row]:
            name = ""
        elif field == "coco_url":
            name = "/".join(name.split("/")[-2:])  # such as train2017/000000000009.jpg
        names.append(name)
        if field in entry and not valid[row]:
            table.add(row, "image-name", field, f"{field} {shorten(entry[field])} is not text")
        elif valid[row] and not is_unicode(name):
            valid[row] = False
            table.add(row, "image-name", field, f"{field} {shorten(name)} {HALF_PAIR}")
        elif table.is_object[row] and not valid[row]:
            table.add(row, "image-field", field, "there is no file_name")
    return names, valid


def _check_inside(table: Table, names: Sequence[str]) -> np.ndarray:
    """Return which names leave the image folder, bool `[names]`, and add an issue for each."""
    outside = np.asarray([name[:1] == "/" or ".." in name.split("/") for name in names], bool)
    for row in np.flatnonzero(outside).tolist():
        message = (
            f"{shorten(names[row])} leaves the image folder; if you trust it, allow it by "
            "`--data.source.allow-outside-files` (`data check` and `build`: --allow-outside-files)"
        )
        table.add(row, "image-outside", "file_name", message)
    return outside


def semantic_map_name(image_name: str, image_folder: pathlib.Path) -> str | None:
    """Return the name of an image's semantic map; None for an image outside the image folder.

    There the name could lead to any file, such as the image itself.
    """
    name = os.path.relpath(image_folder / image_name, image_folder)
    is_outside = name.split(os.sep)[0] == os.pardir
    return None if is_outside else os.path.splitext(name)[0] + ".png"


def _check_semantic_maps(
    table: Table,
    image_names: Sequence[str],
    image_folder: pathlib.Path,
    folders: Sequence[pathlib.Path],
) -> pathlib.Path | None:
    """Return the folder of the semantic maps, None if there are none to look for."""
    if not folders:
        return None
    map_names = [name and semantic_map_name(name, image_folder) for name in image_names]
    for row, name in enumerate(map_names):
        if name is None:
            message = f"{image_names[row]!r} is outside the image folder, so it has no semantic map"
            table.add(row, "semantic-missing", "file_name", message)
    rows = [row for row, name in enumerate(map_names) if name]
    names = [map_names[row] or "" for row in rows]
    folder, exists = choose_folder(folders, names)
    for row, name, found in zip(rows, names, exists.tolist(), strict=True):
        if not found:
            message = f"there is no semantic map {str(folder / name)!r}"
            table.add(row, "semantic-missing", "file_name", message)
    return folder


def choose_folder(
    folders: Sequence[pathlib.Path], names: Sequence[str]
) -> tuple[pathlib.Path, np.ndarray]:
    """Return the first folder with the most of the files, and which it has, bool `[names]`."""
    first, *others = folders
    chosen, exists = first, files_exist(first, names)
    for folder in others:
        if exists.all():
            break
        found = files_exist(folder, names)
        if found.sum() > exists.sum():
            chosen, exists = folder, found
    return chosen, exists


def files_exist(folder: pathlib.Path, names: Sequence[str]) -> np.ndarray:
    """Return which files exist, bool `[names]`.

    It lists their folders: one request per file would take minutes on a network file system.
    """
    # "a", "./a" and "a/../a" are one folder: each would be listed for itself.
    split = [(os.path.normpath(parent), name) for parent, name in map(os.path.split, names)]
    wanted: dict[str, set[str]] = {}
    for parent, name in split:
        wanted.setdefault(parent, set()).add(name)
    found: dict[str, set[str]] = {}
    for parent, in_parent in wanted.items():
        try:
            with os.scandir(os.path.join(folder, parent)) as entries:
                found[parent] = {e.name for e in entries if e.name in in_parent and not e.is_dir()}
        except (OSError, ValueError):  # ValueError: an invalid name, as with a NUL character
            found[parent] = set()
    return np.asarray([name in found[parent] for parent, name in split], bool)
