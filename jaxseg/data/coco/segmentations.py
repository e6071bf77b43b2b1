"""The segmentations of a COCO file: checked, and as flat arrays.

A mask is polygons or RLE, compressed or not (`jaxseg.data.masks.rle`); RLE is kept as compressed
text. Several polygons are one mask. One may cross itself: pycocotools fills it by its own rule, for
training and evaluation alike. pycocotools does not check what it is given: it crashes on points
that are far away or NaN, and leaves pixels that no run covers as they happen to be in memory.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.coco.table import Table, show
from jaxseg.data.masks.rle import areas_and_boxes, decode_runs, encode_runs
from jaxseg.data.ragged import flatten_numbers, offsets, reduce_lists

_BLOCK = 20_000
"""Masks whose runs are looked at together: bounds the memory that takes."""
_INTS = frozenset((int,))


class Masks(NamedTuple):
    """The masks of n annotations. Those with a defect may have neither polygons nor text."""

    polygons: np.ndarray  # int64 [n + 1]: annotation i has polygons[i] to polygons[i + 1]
    points: np.ndarray  # int64 [p + 1]: polygon j has coordinates[points[j] : points[j + 1]]
    coordinates: np.ndarray  # float64 [c], x and y in turn
    rles: np.ndarray  # int64 [n + 1]: annotation i has text[rles[i] : rles[i + 1]]
    text: np.ndarray  # uint8 [t]


class Extents(NamedTuple):
    """What can be told of n masks without drawing them."""

    boxes: np.ndarray  # float64 [n, 4], xyxy of polygons' corners or RLE's pixels; 0 if unknown
    known: np.ndarray  # bool [n]: the mask is without defect
    digest: np.ndarray  # float64 [n]: equal for equal masks


def check_masks(table: Table, sizes: np.ndarray, placed: np.ndarray) -> tuple[Masks, Extents]:
    """The column `segmentation`. `sizes` (`[n, 2]`) are of each one's image, where it is `placed`.

    Masks without an image of known size are passed over.
    """
    values = table.values("segmentation")
    is_polygons, is_rle = np.zeros((2, len(values)), bool)
    for row in np.flatnonzero(placed).tolist():
        value = values[row]
        is_polygons[row] = type(value) is list
        is_rle[row] = type(value) is dict and "size" in value and "counts" in value
        if not (is_polygons[row] or is_rle[row]) and "segmentation" in table.entries[row]:
            message = f"segmentation {show(value)} is neither polygons nor RLE (size and counts)"
            table.add(row, "mask-type", "segmentation", message)
    polygons = _check_polygons(table, np.flatnonzero(is_polygons), values, sizes)
    rles = _check_rles(table, np.flatnonzero(is_rle), values, sizes)
    boxes = polygons.boxes + rles.boxes
    extents = Extents(boxes, polygons.known | rles.known, polygons.digest + rles.digest)
    return Masks(*polygons.arrays, *rles.arrays), extents


class _Part(NamedTuple):
    """Either way of giving masks; all rows that are given the other way hold zeros."""

    arrays: tuple[np.ndarray, ...]
    boxes: np.ndarray
    known: np.ndarray
    digest: np.ndarray


def _check_polygons(table: Table, rows: np.ndarray, values: list[Any], sizes: np.ndarray) -> _Part:
    count = len(table)
    lists = [values[row] for row in rows.tolist()]
    amounts = np.fromiter(map(len, lists), np.int64, len(lists))
    table.add_all(rows[amounts == 0], "mask-empty", "segmentation", "segmentation is empty")
    polygons = list(itertools.chain.from_iterable(lists))
    owner = np.repeat(rows, amounts)
    number = np.arange(len(owner)) - np.repeat(offsets(amounts)[:-1], amounts)

    def add(which: np.ndarray, kind: str, says: Callable[[int], str]) -> None:
        """One defect for each annotation, of its first such polygon."""
        wrong = np.flatnonzero(which)
        for i in wrong[np.unique(owner[wrong], return_index=True)[1]].tolist():
            message = f"polygon {number[i]} {says(i)}"
            table.add(int(owner[i]), kind, "segmentation", message)

    flat, lengths, readable = flatten_numbers(polygons)
    is_list = np.fromiter((type(p) is list for p in polygons), bool, len(polygons))
    add(~is_list, "polygon-type", lambda i: f"is {show(polygons[i])}, not a list x, y, x, y, ...")
    add(is_list & ~readable, "polygon-numbers", lambda i: f"is {show(polygons[i])}: not numbers")
    box, short = readable & (lengths == 4), readable & (lengths < 6) & (lengths != 4)
    odd = readable & (lengths > 6) & (lengths % 2 == 1)
    add(box, "polygon-box", lambda i: f"is {polygons[i]}: two points, or a box; it needs three")
    add(short, "polygon-short", lambda i: f"has {lengths[i]} numbers; it needs three points, six")
    add(odd, "polygon-odd", lambda i: f"has {lengths[i]} numbers: an x or y is missing")
    usable = readable & ~(box | short | odd)
    if not usable.all():
        flat, lengths = flat[np.repeat(usable, lengths)], np.where(usable, lengths, 0)

    low, high = _ranges(flat, lengths)
    usable &= ~_check_ranges(add, usable, low, high, sizes[owner])
    good = np.zeros(count, bool)
    good[rows[amounts > 0]] = True
    good[owner[~usable]] = False

    owned = np.bincount(owner, minlength=count)
    ends = [reduce_lists(np.minimum, low[:, axis], owned) for axis in (0, 1)]
    ends += [reduce_lists(np.maximum, high[:, axis], owned) for axis in (0, 1)]
    boxes = np.where(good[:, None], np.stack(ends, axis=1), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = reduce_lists(np.add, flat, lengths) + lengths
        digest = np.where(good, reduce_lists(np.add, sums, owned), 0)
    return _Part((offsets(owned), offsets(lengths), flat), boxes, good, digest)


def _ranges(flat: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest (x, y) of each polygon, float64 `[p, 2]`."""
    low, high = (
        np.stack([reduce_lists(ufunc, flat[axis::2], lengths // 2) for axis in (0, 1)], axis=1)
        for ufunc in (np.minimum, np.maximum)
    )
    return low, high


def _check_ranges(
    add: Callable[[np.ndarray, str, Callable[[int], str]], None],
    usable: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """Which polygons are not finite, far away or out of sight: bool `[p]`."""
    finite = (np.isfinite(low) & np.isfinite(high)).all(1)
    side = sizes[:, ::-1].astype(np.float64)  # width, height
    far = usable & finite & ((low < -side) | (high > 2 * side)).any(1)
    outside = usable & finite & ~far & ((high < 0) | (low > side)).any(1)

    def span(i: int) -> str:
        (x1, y1), (x2, y2) = low[i].tolist(), high[i].tolist()
        width, height = side[i].astype(int).tolist()
        return f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}; the image is {width}x{height}"

    add(usable & ~finite, "polygon-numbers", lambda i: "has numbers that are not finite")
    add(far, "polygon-far", lambda i: f"reaches more than an image beyond the image: {span(i)}")
    add(outside, "polygon-outside", lambda i: f"is outside the image: {span(i)}")
    return (usable & ~finite) | far | outside


def _check_rles(table: Table, rows: np.ndarray, values: list[Any], sizes: np.ndarray) -> _Part:
    count = len(table)
    boxes, digest, known = np.zeros((count, 4)), np.zeros(count), np.zeros(count, bool)
    lengths, blocks = np.zeros(count, np.int64), [np.zeros(0, np.uint8)]
    wanted = sizes.tolist()
    for row in rows.tolist():
        known[row] = values[row]["size"] == wanted[row]
        if not known[row]:
            size = show(values[row]["size"])
            message = f"the mask's size {size} is not the image's {wanted[row]} (height, width)"
            table.add(row, "rle-size", "segmentation", message)
    rows = rows[known[rows]]
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        text, amounts, read = _read_counts(table, block, values)
        runs, counts, formed = decode_runs(text, amounts)
        says = "the RLE's counts are not COCO's compressed text"
        table.add_all(block[read & ~formed], "rle-text", "segmentation", says)
        positive = reduce_lists(np.minimum, runs, counts) >= 0
        full = reduce_lists(np.add, runs, counts) == sizes[block].prod(1, dtype=np.int64)
        says = "the RLE's counts do not add up to the image's pixels"
        table.add_all(block[read & formed & ~(positive & full)], "rle-sum", "segmentation", says)
        good = formed & positive & full
        kept = np.repeat(good, counts)
        area, box = areas_and_boxes(runs[kept], counts * good, sizes[block, 0])
        says = "the mask has no pixel"
        table.add_all(block[good & (area == 0)], "mask-empty", "segmentation", says)
        known[block] = good & (area > 0)
        boxes[block], digest[block], lengths[block] = box, area, amounts
        blocks.append(text)
    return _Part((offsets(lengths), np.concatenate(blocks)), boxes, known, digest)


def _read_counts(
    table: Table, rows: np.ndarray, values: list[Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The counts of some rows as text, the length of each, and which could be read."""
    counts = [values[row]["counts"] for row in rows.tolist()]
    texts = [c.encode("ascii") if type(c) is str and c.isascii() else None for c in counts]
    other = [i for i, text in enumerate(texts) if text is None]
    runs, amounts, whole = flatten_numbers([counts[i] for i in other], _INTS)
    fits = whole & ~reduce_lists(np.logical_or, np.abs(runs) >= 1 << 28, amounts)
    runs, amounts = runs[np.repeat(fits, amounts)], np.where(fits, amounts, 0)
    encoded, sizes = encode_runs(runs.astype(np.int64), amounts)
    starts = offsets(sizes)
    for place, i in enumerate(other):
        row, value = int(rows[i]), counts[i]
        texts[i] = encoded[starts[place] : starts[place + 1]].tobytes()
        if not whole[place]:
            says = "are not COCO's compressed text" if type(value) is str else f"are {show(value)}"
            message = f"the RLE's counts {says}; they are whole numbers or COCO's compressed text"
            table.add(row, "rle-text", "segmentation", message)
        elif not fits[place]:
            message = "the RLE's counts do not add up to the image's pixels: one is beyond 2**28"
            table.add(row, "rle-sum", "segmentation", message)
    read = np.ones(len(rows), bool)
    read[other] = fits
    joined = np.frombuffer(b"".join(text or b"" for text in texts), np.uint8)
    return joined, np.asarray([len(text or b"") for text in texts], np.int64), read
