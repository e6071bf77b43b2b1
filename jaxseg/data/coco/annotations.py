"""The annotations of a COCO file: checked, and as columns (`jaxseg.data.coco.table`)."""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.segmentations import Masks, MaskSummary, check_masks
from jaxseg.data.coco.table import Table, find_rows
from jaxseg.data.ragged import flatten_numbers
from jaxseg.data.source import Category

_MIN_BOX_MASK_IOU = 0.5
"""Least IoU of a box and its mask's tight box, unless all sides are within a pixel."""


class Images(NamedTuple):
    """The columns of n images."""

    ids: np.ndarray  # int64 [n]
    has_id: np.ndarray  # bool [n]
    sizes: np.ndarray  # int64 [n, 2], (height, width)
    has_size: np.ndarray  # bool [n]
    names: list[str]  # of the files, relative to the image folder


class Annotations(NamedTuple):
    """The columns of n annotations."""

    image_rows: np.ndarray  # int64 [n], rows of `Images`; -1 if there is no such image
    labels: np.ndarray  # int64 [n]; -1 if there is no such category
    boxes: np.ndarray  # float32 [n, 4], xyxy
    iscrowd: np.ndarray  # bool [n]
    masks: Masks


def check_annotations(table: Table, images: Images, categories: Sequence[Category]) -> Annotations:
    """Check the annotations of a file, add the issues to their table, and return the columns."""
    ids, has_id = table.integers("id", "annotation-id")
    table.check_unique(ids.tolist(), has_id, "id")
    category_ids = np.asarray([category.id for category in categories], np.int64)
    all_valid = np.ones(len(category_ids), bool)
    labels = _find_references(table, "category", category_ids, all_valid, "categories")
    image_rows = _find_references(table, "image", images.ids, images.has_id, "images")
    has_size = image_rows >= 0
    has_size[has_size] = images.has_size[image_rows[has_size]]
    image_sizes = np.zeros((len(table), 2), np.int64)
    image_sizes[has_size] = images.sizes[image_rows[has_size]]
    iscrowd = _check_iscrowd(table)
    _check_areas(table)
    boxes, valid_box = _check_boxes(table, image_sizes, has_size)
    masks, summary = check_masks(table, image_sizes, has_size)
    comparable = np.flatnonzero(valid_box & summary.valid)
    _compare_boxes(table, comparable, boxes, summary.boxes, image_sizes)
    _find_duplicates(table, image_rows, labels, summary)
    return Annotations(image_rows, labels, boxes, iscrowd, masks)


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Convert COCO's `bbox` `[n, 4]` (x, y, width, height) to float32 `xyxy`.

    Rounding to float32 comes before the sum, so all readers of a file get the same boxes.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        converted = boxes.astype(np.float32)
        converted[:, 2:] += converted[:, :2]
    return converted


def _find_references(
    table: Table, item: str, ids: np.ndarray, valid: np.ndarray, list_name: str
) -> np.ndarray:
    """Return the index in `ids` of each row's `<item>_id`, int64 `[n]`; -1 if it is not there."""
    field = f"{item}_id"
    references, given = table.integers(field, "annotation-id")
    rows = np.where(given, find_rows(references, ids, valid), -1)
    unknown = np.flatnonzero(given & (rows < 0))
    table.add_all(unknown, f"annotation-{item}", field, f"{field} {{}} is not in {list_name}")
    return rows


def _check_iscrowd(table: Table) -> np.ndarray:
    values = [entry.get("iscrowd", 0) for entry in table.entries]
    valid = np.asarray([type(v) in (int, bool) and 0 <= v <= 1 for v in values], bool)
    message = "iscrowd {} is neither 0 nor 1"
    table.add_all(np.flatnonzero(~valid), "annotation-crowd", "iscrowd", message)
    return np.asarray([v == 1 for v in values], bool) & valid


def _check_areas(table: Table) -> None:
    values = [entry.get("area", 0) for entry in table.entries]
    valid = np.asarray([type(v) in (int, float) and 0 <= v < math.inf for v in values], bool)
    message = "area {} is not a finite number of at least 0"
    table.add_all(np.flatnonzero(~valid), "annotation-area", "area", message)


def _check_boxes(
    table: Table, image_sizes: np.ndarray, has_size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes, float32 `xyxy` `[n, 4]`, and which are valid and have an area."""
    given = np.asarray(["bbox" in entry for entry in table.entries], bool)
    flat, lengths, _ = flatten_numbers(table.values("bbox"))
    four = lengths == 4
    xywh = np.zeros((len(table), 4))  # float64
    xywh[four] = flat[np.repeat(four, lengths)].reshape(-1, 4)
    boxes = xywh_to_xyxy(xywh)
    numeric = four & np.isfinite(xywh).all(1)
    negative = numeric & (xywh[:, 2:] < 0).any(1)
    side = image_sizes[:, ::-1]  # [n, 2], (width, height)
    far = ((boxes[:, :2] < -side) | (boxes[:, 2:] > 2 * side)).any(1) & has_size
    far &= numeric & ~negative
    # In float32: a positive width can vanish in the sum with a large x.
    zero = numeric & ~negative & ~far & (boxes[:, 2:] <= boxes[:, :2]).any(1)
    for rows, kind, message in (
        (given & ~numeric, "box-numbers", "is not four finite numbers (x, y, width, height)"),
        (negative, "box-negative", "has a negative width or height"),
        (far, "box-far", "extends beyond the image by more than the image's size"),
        (zero, "box-zero", "has no area: training skips the object, whatever its mask is"),
    ):
        table.add_all(np.flatnonzero(rows), kind, "bbox", f"bbox {{}} {message}")
    return boxes, numeric & ~(negative | far | zero)


def _compare_boxes(
    table: Table,
    rows: np.ndarray,
    boxes: np.ndarray,
    mask_boxes: np.ndarray,
    image_sizes: np.ndarray,
) -> None:
    """Add an issue for each row whose box does not match its mask's, both clipped to the image."""
    limits = np.tile(image_sizes[rows, ::-1], 2)  # [rows, 4]: width, height, width, height
    box, mask_box = (b[rows].astype(np.float64).clip(0, limits) for b in (boxes, mask_boxes))
    sides = np.minimum(box[:, 2:], mask_box[:, 2:]) - np.maximum(box[:, :2], mask_box[:, :2])
    intersection = sides.clip(0).prod(1)  # [rows]
    total = sum((b[:, 2:] - b[:, :2]).prod(1) for b in (box, mask_box))
    apart = np.abs(box - mask_box).max(1, initial=0) > 1
    differs = apart & (intersection < _MIN_BOX_MASK_IOU * (total - intersection))
    for i in np.flatnonzero(differs).tolist():
        x1, y1, x2, y2 = mask_box[i].tolist()
        row = int(rows[i])
        message = (
            f"bbox {table.entries[row]['bbox']} does not match the mask, whose box is "
            f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] (x, y, width, height)"
        )
        table.add(row, "box-mask", "bbox", message)


def _find_duplicates(
    table: Table, image_rows: np.ndarray, labels: np.ndarray, summary: MaskSummary
) -> None:
    """Add an issue for each annotation with the image, category and mask of an earlier one."""
    for rows in _equal_summaries(image_rows, labels, summary):
        # Checksums can collide, so the segmentations themselves decide.
        distinct: list[tuple[int, Any]] = []
        for row in rows:
            segmentation = table.entries[row]["segmentation"]
            first = next((r for r, earlier in distinct if earlier == segmentation), None)
            if first is None:
                distinct.append((row, segmentation))
                continue
            message = f"image, category and mask are those of annotations[{first}]"
            table.add(row, "annotation-duplicate", "segmentation", message)


def _equal_summaries(
    image_rows: np.ndarray, labels: np.ndarray, summary: MaskSummary
) -> list[list[int]]:
    """Group the rows with equal image, label, mask box and checksum: groups of two and more."""
    rows = np.flatnonzero(summary.valid)  # [v]
    columns = [*summary.boxes[rows].T, summary.checksums[rows], labels[rows], image_rows[rows]]
    # Equal rows become neighbours when sorted by all columns.
    order = np.lexsort(columns)
    same_as_next = np.ones(max(len(rows) - 1, 0), bool)  # [v - 1]
    for column in columns:
        same_as_next &= column[order[1:]] == column[order[:-1]]
    groups: dict[int, list[int]] = collections.defaultdict(list)
    first = 0
    for i in range(len(same_as_next)) if same_as_next.any() else ():
        first = first if same_as_next[i] else i + 1
        if same_as_next[i]:
            groups[first].append(i + 1)
    return [
        sorted(int(rows[order[i]]) for i in (first, *others)) for first, others in groups.items()
    ]
