"""Annotated objects in a view: their boxes, and the pixels of their masks that are visible.

Masks stay run-length encoded until pixels are needed, and only the needed part is decoded: an
image of 1,000 objects takes no more memory than one of ten. Coordinates are those of
`jaxseg.data.transforms.view`.
"""

from typing import NamedTuple

import numpy as np

from jaxseg.data.masks.regions import bitmap_bounds, decode_part, mask_bounds
from jaxseg.data.source import RLE, Example
from jaxseg.data.transforms.resize import nearest_pixels
from jaxseg.data.transforms.view import View

Bounds = tuple[int, int, int, int]
"""`(top, left, bottom, right)` in whole pixels, half-open; all 0 if nothing is inside."""
_EMPTY: Bounds = (0, 0, 0, 0)


class ViewedObject(NamedTuple):
    """An object of an image in a view of that image."""

    box: np.ndarray  # float32 [4], xyxy, bucket coordinates
    region_box: np.ndarray  # float [4], the same box in region coordinates
    label: int
    rle: RLE  # the mask of the whole original image
    bounds: Bounds  # tight bounds of the mask inside the region, region coordinates
    view: View
    occluded: np.ndarray | None = None
    """uint8 `[H, W]`: 1 where pasted objects hide the padded image; None if they hide nothing of
    this object."""


def view_objects(example: Example, view: View) -> list[ViewedObject]:
    """Return the objects of an example that are inside a view, without crowds.

    Boxes are the annotated ones, clipped to the region as detections are to the image, except where
    the view cuts a mask: there the box is that of the mask's pixels inside the region. Objects
    whose boxes are left without area are left out.
    """
    kept = np.flatnonzero(~example.iscrowd).tolist()
    rles = [example.rles[i] for i in kept]
    boxes = view.to_region(example.boxes[kept])  # [n, 4]
    mask_boxes = view.to_region(mask_bounds(rles)).tolist()  # n times [x1, y1, x2, y2]
    objects = []
    for i, rle, box, mask_box in zip(kept, rles, boxes, mask_boxes, strict=True):
        bounds = _clip_bounds(mask_box, view)
        if view.is_full_image:
            box = _clip_box(box, view)
        else:
            box, bounds = _crop_object(rle, box, mask_box, bounds, view)
        if not (box[2:] > box[:2]).all():
            continue
        bucket_box = np.asarray(box * view.scale_factor, np.float32)
        objects.append(ViewedObject(bucket_box, box, int(example.labels[i]), rle, bounds, view))
    return objects


def _clip_bounds(mask_box: list[int], view: View) -> Bounds:
    """Return the bounds of a mask's `xyxy` box, region coordinates, clipped to the region."""
    (left, top, right, bottom), (height, width) = mask_box, view.region_size
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return (top, left, bottom, right) if top < bottom and left < right else _EMPTY


def _clip_box(box: np.ndarray, view: View) -> np.ndarray:
    """Return an `xyxy` box `[4]` in region coordinates, clipped to the region."""
    height, width = view.region_size
    return np.clip(box, 0, np.asarray([width, height, width, height], box.dtype))


def _crop_object(
    rle: RLE, box: np.ndarray, mask_box: list[int], bounds: Bounds, view: View
) -> tuple[np.ndarray, Bounds]:
    """Return the box and mask bounds of an object in a region that is a part of the image.

    All are in region coordinates; `bounds` are those of `mask_box` clipped to the region. The box
    has no area if nothing of the object is inside.
    """
    top, left, bottom, right = bounds
    empty = mask_box[2] <= mask_box[0]
    if empty or [left, top, right, bottom] == mask_box:  # the region cuts nothing off the mask
        return _clip_box(box, view), bounds
    bounds = _tighten(rle, view, bounds)
    return np.asarray([bounds[1], bounds[0], bounds[3], bounds[2]], box.dtype), bounds


def _tighten(rle: RLE, view: View, bounds: Bounds) -> Bounds:
    """Return the tight bounds of the mask's pixels inside `bounds`, region coordinates."""
    if bounds == _EMPTY:
        return _EMPTY
    tight = bitmap_bounds(region_bitmap(rle, view, bounds))
    if tight is None:
        return _EMPTY
    top, left, bottom, right = tight
    return bounds[0] + top, bounds[1] + left, bounds[0] + bottom, bounds[1] + right


def region_bitmap(rle: RLE, view: View, bounds: Bounds) -> np.ndarray:
    """Return a mask's pixels inside `bounds`, region coordinates: uint8 `[h, w]`, 0 and 1."""
    top, left, bottom, right = bounds
    y, x, _, x_end = view.region
    if view.flipped:
        # Column 0 of the region is the last one of its rectangle in the original image.
        return decode_part(rle, y + top, x_end - right, y + bottom, x_end - left)[:, ::-1]
    return decode_part(rle, y + top, x + left, y + bottom, x + right)


def bucket_bounds(item: ViewedObject) -> Bounds:
    """Return bounds in bucket coordinates outside of which the mask has no pixels.

    They exceed the tight bounds by up to two pixels, which covers the rounding of `nearest_pixels`.
    """
    top, left, bottom, right = item.bounds
    (height, width), (rows, columns) = item.view.size, item.view.region_size
    if bottom <= top:
        return _EMPTY
    return (
        max(top * height // rows - 1, 0),
        max(left * width // columns - 1, 0),
        min(-(-bottom * height // rows) + 1, height),
        min(-(-right * width // columns) + 1, width),
    )


def visible_pixels(item: ViewedObject, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the object's mask without its occluded pixels at bucket `rows` and `columns`.

    The result is uint8 `[r, c]`, 0 and 1. `rows` `[r]` and `columns` `[c]` ascend and are inside
    the image, not its padding. A pixel takes the nearest one of the mask, as `nearest` of the
    view's backend does.
    """
    if not len(rows) or not len(columns):
        return np.zeros((len(rows), len(columns)), np.uint8)
    (height, width), (region_height, region_width) = item.view.size, item.view.region_size
    backend = item.view.resize_backend
    v = nearest_pixels(rows, height, region_height, backend)  # [r], region coordinates
    u = nearest_pixels(columns, width, region_width, backend)  # [c]
    bounds = int(v[0]), int(u[0]), int(v[-1]) + 1, int(u[-1]) + 1
    bitmap = region_bitmap(item.rle, item.view, bounds)
    pixels = bitmap[v - v[0]][:, u - u[0]]  # [r, c]
    if item.occluded is not None:
        pixels &= item.occluded[rows][:, columns] ^ 1
    return pixels


def center_of_mass(item: ViewedObject) -> np.ndarray:
    """Return `(x, y)` of the visible mask's centre of mass, float64 `[2]`.

    Coordinates are pixel indices of the padded image: the first pixel's centre is 0. The mask
    must not be empty.
    """
    if item.occluded is None:
        # From the mask as annotated, which is exact, not from its resized pixels.
        top, left, _, _ = item.bounds
        bitmap = region_bitmap(item.rle, item.view, item.bounds)
        center = _mean_position(bitmap) + np.asarray([left, top])
        return (center + 0.5) * item.view.scale_factor[:2] - 0.5
    top, left, bottom, right = bucket_bounds(item)
    pixels = visible_pixels(item, np.arange(top, bottom), np.arange(left, right))
    return _mean_position(pixels) + np.asarray([left, top])


def _mean_position(bitmap: np.ndarray) -> np.ndarray:
    """Return the mean `(x, y)` of the pixels that are set in a bitmap `[h, w]`."""
    per_column = np.count_nonzero(bitmap, axis=0)  # [w]
    per_row = np.count_nonzero(bitmap, axis=1)  # [h]
    x, y = per_column @ np.arange(len(per_column)), per_row @ np.arange(len(per_row))
    return np.asarray([x, y]) / per_column.sum()
