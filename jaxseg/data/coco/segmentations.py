"""The segmentations of a COCO file: checked, and as flat arrays.

A mask is a list of polygons, compressed RLE or uncompressed RLE (`jaxseg.data.masks.rle`); both
kinds of RLE are kept as compressed text. Several polygons form one mask. A polygon may cross
itself: pycocotools fills it by its own rule, for training and evaluation alike.

Every check is done here because pycocotools does none: it crashes on NaN and on points far outside
the image, and leaves pixels that no run covers uninitialised.

Terms:
    n       annotations
    P, C    polygons of all annotations; their coordinates
    valid   without an issue
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.table import Table, shorten
from jaxseg.data.masks.rle import areas_and_boxes, decode_runs, encode_runs
from jaxseg.data.ragged import flatten_numbers, offsets, positions, reduce_lists
from jaxseg.data.source import RLE

_BLOCK = 20_000
"""Masks whose runs are decoded together; it bounds the memory needed."""
_INTS = frozenset((int,))
MAX_PERIMETERS = 64
"""Longest outline of a polygon, as a multiple of the image's."""


class Masks(NamedTuple):
    """The masks of n annotations. A mask with an issue may have neither polygons nor RLE."""

    polygon_offsets: np.ndarray  # int64 [n + 1]: annotation i has polygons [i] to [i + 1]
    point_offsets: np.ndarray  # int64 [P + 1]: polygon j has coordinates [j] to [j + 1]
    coordinates: np.ndarray  # float64 [C]: x, y, x, y, ...
    rle_offsets: np.ndarray  # int64 [n + 1]: annotation i has rle_text [i] to [i + 1]
    rle_text: np.ndarray  # uint8: the compressed counts


class MaskSummary(NamedTuple):
    """Properties of n masks that need no rasterisation."""

    boxes: np.ndarray  # float64 [n, 4], xyxy of the polygons' points or the RLE's pixels; 0 if none
    valid: np.ndarray  # bool [n]
    checksums: np.ndarray  # float64 [n]: equal for equal masks


def check_masks(
    table: Table, image_sizes: np.ndarray, has_size: np.ndarray
) -> tuple[Masks, MaskSummary]:
    """Check the field `segmentation` of a table of annotations, and return it as arrays.

    Args:
        table: the annotations; receives the issues.
        image_sizes: int64 `[n, 2]`, `(height, width)` of each annotation's image.
        has_size: bool `[n]`: the size is known. Masks of other images are not checked.
    """
    values = table.values("segmentation")
    is_polygons, is_rle = np.zeros((2, len(values)), bool)
    for row in np.flatnonzero(has_size).tolist():
        value = values[row]
        is_polygons[row] = type(value) is list
        is_rle[row] = type(value) is dict and "size" in value and "counts" in value
        if not (is_polygons[row] or is_rle[row]) and "segmentation" in table.entries[row]:
            message = f"segmentation {shorten(value)} is neither polygons nor RLE (size and counts)"
            table.add(row, "mask-type", "segmentation", message)
    polygons, polygon_summary = _check_polygons(
        table, np.flatnonzero(is_polygons), values, image_sizes
    )
    rles, rle_summary = _check_rles(table, np.flatnonzero(is_rle), values, image_sizes)
    # Each summary holds zeros in the rows of the other.
    summary = MaskSummary(
        polygon_summary.boxes + rle_summary.boxes,
        polygon_summary.valid | rle_summary.valid,
        polygon_summary.checksums + rle_summary.checksums,
    )
    return Masks(*polygons, *rles), summary


def _check_polygons(
    table: Table, rows: np.ndarray, values: list[Any], image_sizes: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], MaskSummary]:
    """Return the first three arrays of `Masks`, and the summary of the rows with polygons."""
    count = len(table)
    lists = [values[row] for row in rows.tolist()]
    list_lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    table.add_all(rows[list_lengths == 0], "mask-empty", "segmentation", "segmentation is empty")
    polygons = list(itertools.chain.from_iterable(lists))
    owner = np.repeat(rows, list_lengths)  # [P], the polygon's row
    number = positions(list_lengths)  # [P], its index in the annotation

    def add(which: np.ndarray, kind: str, message: Callable[[int], str]) -> None:
        """Add one issue per annotation, for the first of its polygons in `which` (bool `[P]`)."""
        invalid = np.flatnonzero(which)
        for i in invalid[np.unique(owner[invalid], return_index=True)[1]].tolist():
            text = f"polygon {number[i]} {message(i)}"
            table.add(int(owner[i]), kind, "segmentation", text)

    coordinates, lengths, usable = _check_shapes(add, polygons)  # [C], [P], [P]
    low, high = _ranges(coordinates, lengths)
    usable &= ~_check_ranges(add, usable, low, high, image_sizes[owner])
    usable &= ~_check_lengths(add, usable, coordinates, lengths, low, high, image_sizes[owner])
    valid = np.zeros(count, bool)
    valid[rows[list_lengths > 0]] = True
    valid[owner[~usable]] = False

    polygon_counts = np.bincount(owner, minlength=count)  # [n]
    sides = [reduce_lists(np.minimum, low[:, axis], polygon_counts) for axis in (0, 1)]
    sides += [reduce_lists(np.maximum, high[:, axis], polygon_counts) for axis in (0, 1)]
    boxes = np.where(valid[:, None], np.stack(sides, axis=1), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = reduce_lists(np.add, coordinates, lengths) + lengths  # [P]
        checksums = np.where(valid, reduce_lists(np.add, sums, polygon_counts), 0)
    arrays = offsets(polygon_counts), offsets(lengths), coordinates
    return arrays, MaskSummary(boxes, valid, checksums)


_AddIssue = Callable[[np.ndarray, str, Callable[[int], str]], None]
"""Adds an issue for some polygons: bool `[P]`, the kind, and the message of polygon i."""


def _check_shapes(add: _AddIssue, polygons: list[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the coordinates (`[C]`), lengths (`[P]`) and validity (bool `[P]`) of polygons.

    A polygon is invalid if it is not a list of an even number of numbers, six or more; its length
    is then 0.
    """
    flat, lengths, numeric = flatten_numbers(polygons)
    is_list = np.fromiter((type(p) is list for p in polygons), bool, len(polygons))
    add(
        ~is_list, "polygon-type", lambda i: f"is {shorten(polygons[i])}, not a list x, y, x, y, ..."
    )
    add(is_list & ~numeric, "polygon-numbers", lambda i: f"is {shorten(polygons[i])}: not numbers")
    box, short = numeric & (lengths == 4), numeric & (lengths < 6) & (lengths != 4)
    odd = numeric & (lengths > 6) & (lengths % 2 == 1)
    add(box, "polygon-box", lambda i: f"is {polygons[i]}: two points, or a box; it needs three")
    add(short, "polygon-short", lambda i: f"has {lengths[i]} numbers; it needs three points, six")
    add(odd, "polygon-odd", lambda i: f"has {lengths[i]} numbers: an x or y is missing")
    valid = numeric & ~(box | short | odd)
    if valid.all():  # saves a copy of all coordinates
        return flat, lengths, valid
    return flat[np.repeat(valid, lengths)], np.where(valid, lengths, 0), valid


def _ranges(coordinates: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest (x, y) of each polygon, float64 `[P, 2]`."""
    # All lengths are even, so every other number is an x, across polygons too.
    low, high = (
        np.stack(
            [reduce_lists(ufunc, coordinates[axis::2], lengths // 2) for axis in (0, 1)], axis=1
        )
        for ufunc in (np.minimum, np.maximum)
    )
    return low, high


def _check_ranges(
    add: _AddIssue,
    usable: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    image_sizes: np.ndarray,
) -> np.ndarray:
    """Return which polygons are not finite, far away or outside their image: bool `[P]`."""
    finite = (np.isfinite(low) & np.isfinite(high)).all(1)
    side = image_sizes[:, ::-1].astype(np.float64)  # [P, 2], (width, height)
    far = usable & finite & ((low < -side) | (high > 2 * side)).any(1)
    outside = usable & finite & ~far & ((high < 0) | (low > side)).any(1)

    def span(i: int) -> str:
        (x1, y1), (x2, y2) = low[i].tolist(), high[i].tolist()
        width, height = side[i].astype(int).tolist()
        return f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}; the image is {width}x{height}"

    add(usable & ~finite, "polygon-numbers", lambda i: "has numbers that are not finite")
    add(
        far,
        "polygon-far",
        lambda i: f"extends beyond the image by more than the image's size: {span(i)}",
    )
    add(outside, "polygon-outside", lambda i: f"is outside the image: {span(i)}")
    return (usable & ~finite) | far | outside


def _check_lengths(
    add: _AddIssue,
    usable: np.ndarray,
    coordinates: np.ndarray,
    lengths: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    image_sizes: np.ndarray,
) -> np.ndarray:
    """Return which polygons have too long an outline: bool `[P]`.

    pycocotools takes 50 bytes or so for each pixel of the outline, whatever the image's size.
    """
    longest = MAX_PERIMETERS * 2.0 * image_sizes.sum(1)
    # No edge is longer than the polygon's span. Those of unusable polygons may overflow.
    spans = np.zeros(len(lengths))
    spans[usable] = (high[usable] - low[usable]).max(1)
    possible = lengths // 2 * spans > longest
    starts, too_long = offsets(lengths), np.zeros(len(lengths), bool)
    for i in np.flatnonzero(possible).tolist():
        points = coordinates[starts[i] : starts[i + 1]].reshape(-1, 2)
        edges = np.abs(points - np.roll(points, 1, axis=0)).max(1)
        too_long[i] = edges.sum() > longest[i]
    add(
        too_long,
        "polygon-long",
        lambda i: (
            f"has an outline of more than {longest[i]:g} pixels, {MAX_PERIMETERS} times the image's"
        ),
    )
    return too_long


def _check_rles(
    table: Table, rows: np.ndarray, values: list[Any], image_sizes: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], MaskSummary]:
    """Return the last two arrays of `Masks`, and the summary of the rows with RLE."""
    count = len(table)
    boxes, checksums, valid = np.zeros((count, 4)), np.zeros(count), np.zeros(count, bool)
    lengths, blocks = np.zeros(count, np.int64), [np.zeros(0, np.uint8)]
    expected_sizes = image_sizes.tolist()
    for row in rows.tolist():
        valid[row] = values[row]["size"] == expected_sizes[row]
        if not valid[row]:
            message = (
                f"the mask's size {shorten(values[row]['size'])} is not the image's "
                f"{expected_sizes[row]} (height, width)"
            )
            table.add(row, "rle-size", "segmentation", message)
    rows = rows[valid[rows]]
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        text, text_lengths, readable = _read_counts(table, block, values)
        areas, block_boxes, formed = _measure_rles(
            table, block, text, text_lengths, readable, image_sizes[block]
        )
        table.add_all(
            block[formed & (areas == 0)], "mask-empty", "segmentation", "the mask has no pixel"
        )
        valid[block] = formed & (areas > 0)
        boxes[block], checksums[block], lengths[block] = block_boxes, areas, text_lengths
        blocks.append(text)
    return (offsets(lengths), np.concatenate(blocks)), MaskSummary(boxes, valid, checksums)


def _measure_rles(
    table: Table,
    rows: np.ndarray,
    text: np.ndarray,
    text_lengths: np.ndarray,
    readable: np.ndarray,
    image_sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the areas, `xyxy` boxes and validity of the masks of some rows.

    A mask is valid if its text is well-formed and its runs add up to the image's pixels; the areas
    and boxes of others are 0.
    """
    runs, run_counts, formed = decode_runs(text, text_lengths)
    message = "the RLE's counts are not COCO's compressed text"
    table.add_all(rows[readable & ~formed], "rle-text", "segmentation", message)
    positive = reduce_lists(np.minimum, runs, run_counts) >= 0
    full = reduce_lists(np.add, runs, run_counts) == image_sizes.prod(1, dtype=np.int64)
    message = "the RLE's counts do not add up to the image's pixels"
    table.add_all(rows[readable & formed & ~(positive & full)], "rle-sum", "segmentation", message)
    valid = formed & positive & full
    kept = np.repeat(valid, run_counts)
    areas, boxes = areas_and_boxes(runs[kept], run_counts * valid, image_sizes[:, 0])
    return areas, boxes, valid


def _read_counts(
    table: Table, rows: np.ndarray, values: list[Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the RLE counts of some rows as compressed text, encoding those given as numbers.

    Returns:
        the texts, uint8, flat; the length of each, int64 `[rows]`; which rows were readable, bool
        `[rows]`. Other rows have empty texts and an issue.
    """
    counts = [values[row]["counts"] for row in rows.tolist()]
    texts = [c.encode("ascii") if type(c) is str and c.isascii() else None for c in counts]
    # The rest should be lists of runs: uncompressed RLE.
    untexted = [i for i, text in enumerate(texts) if text is None]
    runs, run_counts, integral = flatten_numbers([counts[i] for i in untexted], _INTS)
    fits = integral & ~reduce_lists(np.logical_or, np.abs(runs) >= 1 << 28, run_counts)
    runs, run_counts = runs[np.repeat(fits, run_counts)], np.where(fits, run_counts, 0)
    encoded, encoded_lengths = encode_runs(runs.astype(np.int64), run_counts)
    starts = offsets(encoded_lengths)
    for j, i in enumerate(untexted):
        row, value = int(rows[i]), counts[i]
        texts[i] = encoded[starts[j] : starts[j + 1]].tobytes()
        if not integral[j]:
            what = "not COCO's compressed text" if type(value) is str else shorten(value)
            message = (
                f"the RLE's counts are {what}; they must be whole numbers or COCO's compressed text"
            )
            table.add(row, "rle-text", "segmentation", message)
        elif not fits[j]:
            message = "the RLE's counts do not add up to the image's pixels: one is beyond 2**28"
            table.add(row, "rle-sum", "segmentation", message)
    readable = np.ones(len(rows), bool)
    readable[untexted] = fits
    joined = np.frombuffer(b"".join(text or b"" for text in texts), np.uint8)
    return joined, np.asarray([len(text or b"") for text in texts], np.int64), readable


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Convert polygons or any RLE to compressed RLE with `bytes` counts."""
    if isinstance(segmentation, list):
        return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_api.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    return {"size": [height, width], "counts": counts}
