"""Objects as they lie on a canvas: where they are, and which of their pixels are seen.

Masks stay run lengths until they are needed, and only the part that is needed is decoded: an
image of 1,000 objects takes no more memory than one of ten. The terms are those of
`jaxseg.data.transforms.view`.
"""

from typing import NamedTuple

import numpy as np

from jaxseg.data.masks.regions import bitmap_bounds, decode_part, mask_bounds
from jaxseg.data.source import RLE, Example
from jaxseg.data.transforms.view import View

Bounds = tuple[int, int, int, int]
"""`(top, left, bottom, right)` of a mask in whole pixels, half-open; all 0 if it is empty."""
_NOTHING: Bounds = (0, 0, 0, 0)


class ViewedObject(NamedTuple):
    """An object of an image that is seen through a view."""

    box: np.ndarray  # float32 [4], on the canvas
    seen: np.ndarray  # float [4], the same box in the view's own pixels
    label: int
    rle: RLE
    bounds: Bounds  # of what is seen of the mask, in the view's own pixels
    view: View
    cover: np.ndarray | None = None
    """uint8 `[H, W]`: the pixels of the canvas where something lies over the object, if any."""


def place(example: Example, view: View) -> list[ViewedObject]:
    """The objects that are seen of an example, without its crowds.

    Boxes are the annotated ones, except where the view cuts a mask: there the box is that of the
    mask's pixels in sight, and the object is left out if there are none. Boxes end at the view if
    that is a part of the image.
    """
    kept = np.flatnonzero(~example.iscrowd).tolist()
    rles = [example.rles[i] for i in kept]
    boxes = view.see(example.boxes[kept])
    masks = view.see(mask_bounds(rles)).tolist()
    height, width = view.part
    placed = []
    for i, rle, box, mask in zip(kept, rles, boxes, masks, strict=True):
        bounds = _within(mask, view)
        if not view.whole:
            empty = mask[2] <= mask[0]
            if empty or (bounds[1], bounds[0], bounds[3], bounds[2]) == tuple(mask):
                box = np.clip(box, 0, np.asarray([width, height, width, height], box.dtype))
            else:
                bounds = _cut(rle, view, bounds)
                box = np.asarray([bounds[1], bounds[0], bounds[3], bounds[2]], box.dtype)
            if not (box[2:] > box[:2]).all():
                continue
        on_canvas = np.asarray(box * view.factors, np.float32)
        placed.append(ViewedObject(on_canvas, box, int(example.labels[i]), rle, bounds, view))
    return placed


def _within(mask: list[int], view: View) -> Bounds:
    """A seen box, `xyxy`, as bounds of what is inside the view."""
    (left, top, right, bottom), (height, width) = mask, view.part
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return (top, left, bottom, right) if top < bottom and left < right else _NOTHING


def _cut(rle: RLE, view: View, bounds: Bounds) -> Bounds:
    """Bounds of the pixels in sight of a mask of which the view cuts something off."""
    if bounds == _NOTHING:
        return _NOTHING
    tight = bitmap_bounds(seen_bitmap(rle, view, *bounds))
    if tight is None:
        return _NOTHING
    top, left, bottom, right = tight
    return bounds[0] + top, bounds[1] + left, bounds[0] + bottom, bounds[1] + right


def seen_bitmap(rle: RLE, view: View, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A part of a mask in the view's own pixels, uint8 0 and 1."""
    y, x, _, end = view.region
    if view.flipped:
        return decode_part(rle, y + top, end - right, y + bottom, end - left)[:, ::-1]
    return decode_part(rle, y + top, x + left, y + bottom, x + right)


def extent_in_bucket(item: ViewedObject) -> Bounds:
    """Where the mask may have pixels on the canvas; it has none elsewhere."""
    top, left, bottom, right = item.bounds
    (height, width), (rows, columns) = item.view.size, item.view.part
    if bottom <= top:
        return _NOTHING
    return (
        max(top * height // rows - 1, 0),
        max(left * width // columns - 1, 0),
        min(-(-bottom * height // rows) + 1, height),
        min(-(-right * width // columns) + 1, width),
    )


def pixels_in_bucket(item: ViewedObject, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Whether pixels of the canvas are the object's and not covered, uint8 `[r, c]`.

    `rows` and `columns` ascend and lie inside the image. A pixel takes the nearest one of the mask,
    as OpenCV's and PyTorch's `nearest` do.
    """
    if not len(rows) or not len(columns):
        return np.zeros((len(rows), len(columns)), np.uint8)
    v = _nearest(rows, item.view.size[0], item.view.part[0])
    u = _nearest(columns, item.view.size[1], item.view.part[1])
    part = int(v[0]), int(u[0]), int(v[-1]) + 1, int(u[-1]) + 1
    bitmap = seen_bitmap(item.rle, item.view, *part)
    pixels = bitmap[v - v[0]][:, u - u[0]]
    if item.cover is not None:
        pixels &= item.cover[rows][:, columns] ^ 1
    return pixels


def _nearest(pixels: np.ndarray, resized: int, side: int) -> np.ndarray:
    step = 1 / (resized / side)
    return np.minimum(np.floor(pixels * step).astype(np.int64), side - 1)


def center_of_mass(item: ViewedObject) -> np.ndarray:
    """`(x, y)` of what is seen of the mask, in pixel indices of the canvas: the first pixel's is 0.

    The mask must not be empty.
    """
    if item.cover is None:
        top, left, bottom, right = item.bounds
        bitmap = seen_bitmap(item.rle, item.view, *item.bounds)
        return (_middle(bitmap) + np.asarray([left, top]) + 0.5) * item.view.factors[:2] - 0.5
    top, left, bottom, right = extent_in_bucket(item)
    pixels = pixels_in_bucket(item, np.arange(top, bottom), np.arange(left, right))
    return _middle(pixels) + np.asarray([left, top])


def _middle(bitmap: np.ndarray) -> np.ndarray:
    """The mean `(x, y)` of the pixels that are set."""
    across, down = np.count_nonzero(bitmap, axis=0), np.count_nonzero(bitmap, axis=1)
    x, y = across @ np.arange(len(across)), down @ np.arange(len(down))
    return np.asarray([x, y]) / across.sum()
