"""A COCO annotation file: parsed, checked, and turned into columns.

Every check goes over a whole column (`jaxseg.data.coco.table`). A file as large as COCO's
train2017 has a million entries and tens of millions of coordinates; Python takes minutes to look
at each. Files of LVIS differ in that images have a `coco_url` and no `file_name`, and annotations
no `iscrowd`.
"""

import contextlib
import gc
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.annotations import Annotations, Images, check_annotations
from jaxseg.data.coco.table import Table, show
from jaxseg.data.images import MOST_PIXELS
from jaxseg.data.issues import Issue
from jaxseg.data.source import Category

_LISTS = ("images", "annotations", "categories")


class CocoFile(NamedTuple):
    """A file's content, as far as it can be read, and what is wrong with it."""

    path: pathlib.Path
    issues: list[Issue]
    categories: list[Category]
    image_table: Table
    images: Images
    annotation_table: Table
    annotations: Annotations


def check_file(path: pathlib.Path, image_folder: pathlib.Path) -> CocoFile:
    """Reads and checks a COCO file. Whatever is wrong with it is among `issues`.

    Images are not opened; that they exist is checked. The parsed JSON lasts as long as the
    tables.
    """
    with _without_collection():
        content = parse(path)
        issues = [content] if isinstance(content, Issue) else []
        lists = {name: [] for name in _LISTS} if isinstance(content, Issue) else content
        if not lists["images"] and not issues:
            issues.append(Issue("split-empty", str(path), "", "images", "there are no images"))
        names = zip(_LISTS, ("image", "annotation", "category"), strict=True)
        tables = [Table(str(path), name, item, lists[name]) for name, item in names]
        categories = _check_categories(tables[2])
        images = _check_images(tables[0], image_folder)
        annotations = check_annotations(tables[1], images, categories)
        for table in (tables[2], tables[0], tables[1]):
            issues += table.issues
        return CocoFile(path, issues, categories, tables[0], images, tables[1], annotations)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of new objects and no garbage: looking for it would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse(path: pathlib.Path) -> dict[str, Any] | Issue:
    """The JSON of a COCO file, which has lists of images, annotations and categories."""
    try:
        with _without_collection():
            content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        return Issue("file-json", str(path), "", "", f"it cannot be read: {error}")
    except (ValueError, RecursionError) as error:
        return Issue("file-json", str(path), "", "", f"it is not valid JSON: {error}")
    if not isinstance(content, dict):
        message = f"{show(content)} is not a JSON object, so this is not in COCO format"
        return Issue("file-coco", str(path), "", "", message)
    missing = [name for name in _LISTS if type(content.get(name)) is not list]
    if missing:
        message = f"it is not in COCO format: there is no list of {', '.join(missing)}"
        return Issue("file-coco", str(path), "", missing[0], message)
    return content


def _check_categories(table: Table) -> list[Category]:
    ids, good = table.whole_numbers("id", "category-id")
    table.check_unique(ids.tolist(), good, "id")
    names = table.values("name")
    for row, name in enumerate(names):
        if type(name) is not str and "name" in table.entries[row]:
            table.add(row, "category-name", "name", f"name {show(name)} is not text")
    usable = np.flatnonzero(~table.rows_of()).tolist()
    return sorted(Category(int(ids[row]), names[row]) for row in usable)


def _check_images(table: Table, folder: pathlib.Path) -> Images:
    ids, has_id = table.whole_numbers("id", "image-id")
    table.check_unique(ids.tolist(), has_id, "id")
    height, has_height = table.whole_numbers("height", "image-size")
    width, has_width = table.whole_numbers("width", "image-size")
    sizes = np.stack([height, width], axis=1)
    has_size = has_height & has_width
    possible = (sizes > 0).all(1) & (sizes.clip(0, MOST_PIXELS).prod(1) <= MOST_PIXELS)
    for row in np.flatnonzero(has_size & ~possible).tolist():
        message = f"{width[row]}x{height[row]} (width x height) is not 1 to {MOST_PIXELS} pixels"
        table.add(row, "image-size", "height, width", message)
    names, named = _check_names(table)
    table.check_unique(names, named, "file_name")
    for row in np.flatnonzero(named & ~_exist(folder, names)).tolist():
        table.add(
            row, "image-missing", "file_name", f"there is no file {str(folder / names[row])!r}"
        )
    has_size &= possible
    return Images(ids, has_id, sizes * has_size[:, None], has_size, names)


def _check_names(table: Table) -> tuple[list[str], np.ndarray]:
    """Where each image lies below the folder, and which say so."""
    names: list[str] = []
    good = np.zeros(len(table), bool)
    for row, entry in enumerate(table.entries):
        field = "coco_url" if "coco_url" in entry and "file_name" not in entry else "file_name"
        name: Any = entry.get(field)
        good[row] = type(name) is str and name != ""
        if not good[row]:
            name = ""
        elif field == "coco_url":
            name = "/".join(name.split("/")[-2:])
        names.append(name)
        if field in entry and not good[row]:
            table.add(row, "image-name", field, f"{field} {show(entry[field])} is not text")
        elif table.is_object[row] and not good[row]:
            table.add(row, "image-field", field, "there is no file_name")
    return names, good


def _exist(folder: pathlib.Path, names: Sequence[str]) -> np.ndarray:
    """Which files are there, by listing their folders: a question for each would take minutes
    where the files are far away."""
    split = [os.path.split(name) for name in names]
    found: dict[str, set[str]] = {}
    for parent in {parent for parent, _ in split}:
        try:
            with os.scandir(os.path.join(folder, parent)) as entries:
                found[parent] = {entry.name for entry in entries if not entry.is_dir()}
        except (OSError, ValueError):  # ValueError: a name that no folder can have
            found[parent] = set()
    return np.asarray([name in found[parent] for parent, name in split], bool)
