"""The annotations of a COCO file: checked, and as columns (`jaxseg.data.coco.table`)."""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.segmentations import Extents, Masks, check_masks
from jaxseg.data.coco.table import Table, find_rows
from jaxseg.data.ragged import flatten_numbers
from jaxseg.data.source import Category

_LEAST_IOU = 0.5
"""Of a box and that of its mask, where their sides are more than a pixel apart."""


class Images(NamedTuple):
    """The columns of n images."""

    ids: np.ndarray  # int64 [n]
    has_id: np.ndarray  # bool [n]
    sizes: np.ndarray  # int64 [n, 2], (height, width)
    has_size: np.ndarray  # bool [n]
    names: list[str]  # of the files, below the image folder


class Annotations(NamedTuple):
    """The columns of n annotations."""

    images: np.ndarray  # int64 [n], rows of the images; -1 where there is none
    labels: np.ndarray  # int64 [n]; -1 where there is none
    boxes: np.ndarray  # float32 [n, 4], xyxy
    crowd: np.ndarray  # bool [n]
    masks: Masks


def check_annotations(table: Table, images: Images, categories: Sequence[Category]) -> Annotations:
    """The columns; what is wrong with an annotation goes into its table."""
    ids, has_id = table.whole_numbers("id", "annotation-id")
    table.check_unique(ids.tolist(), has_id, "id")
    known = np.asarray([category.id for category in categories], np.int64)
    labels = _refer(table, "category", known, np.ones(len(known), bool), "categories")
    rows = _refer(table, "image", images.ids, images.has_id, "images")
    placed = rows >= 0
    placed[placed] = images.has_size[rows[placed]]
    sizes = np.zeros((len(table), 2), np.int64)
    sizes[placed] = images.sizes[rows[placed]]
    crowd = _check_crowds(table)
    _check_areas(table)
    boxes, fine = _check_boxes(table, sizes, placed)
    masks, extents = check_masks(table, sizes, placed)
    _compare_boxes(table, boxes, extents, sizes, fine & extents.known)
    _find_duplicates(table, rows, labels, extents)
    return Annotations(rows, labels, boxes, crowd, masks)


def _refer(table: Table, item: str, ids: np.ndarray, usable: np.ndarray, among: str) -> np.ndarray:
    """The rows that the field `<item>_id` refers to, int64; -1 where it refers to none."""
    field = f"{item}_id"
    wanted, given = table.whole_numbers(field, "annotation-id")
    rows = np.where(given, find_rows(wanted, ids, usable), -1)
    absent = np.flatnonzero(given & (rows < 0))
    table.add_all(absent, f"annotation-{item}", field, f"{field} {{}} is not in {among}")
    return rows


def _check_crowds(table: Table) -> np.ndarray:
    values = [entry.get("iscrowd", 0) for entry in table.entries]
    fine = np.asarray([type(v) in (int, bool) and 0 <= v <= 1 for v in values], bool)
    says = "iscrowd {} is neither 0 nor 1"
    table.add_all(np.flatnonzero(~fine), "annotation-crowd", "iscrowd", says)
    return np.asarray([v == 1 for v in values], bool) & fine


def _check_areas(table: Table) -> None:
    values = [entry.get("area", 0) for entry in table.entries]
    fine = np.asarray([type(v) in (int, float) and 0 <= v < math.inf for v in values], bool)
    says = "area {} is not a finite number of at least 0"
    table.add_all(np.flatnonzero(~fine), "annotation-area", "area", says)


def _check_boxes(
    table: Table, sizes: np.ndarray, placed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes as float32 xyxy, and which are fine and have an area."""
    given = np.asarray(["bbox" in entry for entry in table.entries], bool)
    flat, lengths, _ = flatten_numbers(table.values("bbox"))
    four = lengths == 4
    exact = np.zeros((len(table), 4))
    exact[four] = flat[np.repeat(four, lengths)].reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = exact.astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
    numbers = four & np.isfinite(exact).all(1)
    negative = numbers & (exact[:, 2:] < 0).any(1)
    side = sizes[:, ::-1]
    far = ((boxes[:, :2] < -side) | (boxes[:, 2:] > 2 * side)).any(1) & placed
    far &= numbers & ~negative
    zero = numbers & ~negative & ~far & (boxes[:, 2:] <= boxes[:, :2]).any(1)
    for rows, kind, says in (
        (given & ~numbers, "box-numbers", "is not four finite numbers (x, y, width, height)"),
        (negative, "box-negative", "has a negative side"),
        (far, "box-far", "reaches more than an image beyond the image"),
        (zero, "box-zero", "has no area"),
    ):
        table.add_all(np.flatnonzero(rows), kind, "bbox", f"bbox {{}} {says}")
    return boxes, numbers & ~(negative | far | zero)


def _compare_boxes(
    table: Table, boxes: np.ndarray, extents: Extents, sizes: np.ndarray, which: np.ndarray
) -> None:
    """Boxes that are elsewhere than their masks, both as far as they are in the image."""
    rows = np.flatnonzero(which)
    limits = np.tile(sizes[rows, ::-1], 2)
    ours, theirs = (b[rows].astype(np.float64).clip(0, limits) for b in (boxes, extents.boxes))
    sides = np.minimum(ours[:, 2:], theirs[:, 2:]) - np.maximum(ours[:, :2], theirs[:, :2])
    shared = sides.clip(0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (ours, theirs)]
    apart = np.abs(ours - theirs).max(1, initial=0) > 1
    for i in np.flatnonzero(
        apart & (shared < _LEAST_IOU * (areas[0] + areas[1] - shared))
    ).tolist():
        x1, y1, x2, y2 = theirs[i].tolist()
        row = int(rows[i])
        message = (
            f"bbox {table.entries[row]['bbox']} is not where the mask is, whose box is "
            f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] (x, y, width, height)"
        )
        table.add(row, "box-mask", "bbox", message)


def _find_duplicates(
    table: Table, images: np.ndarray, labels: np.ndarray, extents: Extents
) -> None:
    """Annotations with the image, category and segmentation of an earlier one."""
    rows = np.flatnonzero(extents.known)
    columns = [*extents.boxes[rows].T, extents.digest[rows], labels[rows], images[rows]]
    order = np.lexsort(columns)
    same = np.ones(max(len(rows) - 1, 0), bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    groups: dict[int, list[int]] = collections.defaultdict(list)
    first = 0
    for i in range(len(same)) if same.any() else ():
        first = first if same[i] else i + 1
        if same[i]:
            groups[first].append(i + 1)
    for first, others in groups.items():
        seen: list[tuple[int, Any]] = []
        for row in sorted(int(rows[order[i]]) for i in (first, *others)):
            segmentation = table.entries[row]["segmentation"]
            twin = next((number for number, known in seen if known == segmentation), None)
            if twin is None:
                seen.append((row, segmentation))
                continue
            message = f"image, category and mask are those of annotations[{twin}]"
            table.add(row, "annotation-duplicate", "segmentation", message)
