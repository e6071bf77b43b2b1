"""Simple Copy-Paste (Ghiasi et al. 2021, section 3): objects of one image over another.

Two decisions that the paper leaves open. What a pasted object reaches beyond the image below
belongs to the image; what neither reaches inside their common rectangle is grey, as the paper's
padding. And objects of the same photograph that overlap as annotated stay so: only what lies
beneath loses pixels.
"""

import cv2
import numpy as np

from jaxseg.data.masks.regions import bitmap_bounds
from jaxseg.data.transforms.objects import ViewedObject, extent_in_bucket, pixels_in_bucket

_GREY = 128
"""What Detectron2's and torchvision's large-scale jitter fill with, too."""


def choose(objects: list[ViewedObject], rng: np.random.Generator) -> list[ViewedObject]:
    """1 to all of the objects, each number and each choice as likely; none of none."""
    if not objects:
        return []
    count = int(rng.integers(1, len(objects), endpoint=True))
    return [objects[i] for i in sorted(rng.choice(len(objects), count, replace=False).tolist())]


def paste(
    picture: np.ndarray,
    size: tuple[int, int],
    beneath: list[ViewedObject],
    other: np.ndarray,
    pasted: list[ViewedObject],
    min_visible_fraction: float,
) -> tuple[tuple[int, int], list[ViewedObject]]:
    """Pastes objects of the canvas `other` over the canvas `picture`, in place.

    Gives the `(height, width)` of the picture, which has grown where objects reach beyond `size`,
    and all objects: those beneath that are still visible, then the pasted ones. Objects without
    a pixel on the canvas are not pasted.
    """
    cover = np.zeros(picture.shape[:2], np.uint8)
    shown = [item for item in pasted if _add(item, cover)]
    if not shown:
        return size, beneath
    reach = bitmap_bounds(cover)
    assert reach is not None
    height, width = max(reach[2], size[0]), max(reach[3], size[1])
    picture[size[0] : height, :width] = _GREY
    picture[: size[0], size[1] : width] = _GREY
    cv2.copyTo(other, cover, picture)
    left = [_uncovered(item, cover, min_visible_fraction) for item in beneath]
    return (height, width), [item for item in left if item is not None] + shown


def _add(item: ViewedObject, cover: np.ndarray) -> bool:
    """Adds an object's pixels to those that are covered; False if it has none."""
    top, left, bottom, right = extent_in_bucket(item)
    pixels = pixels_in_bucket(item, np.arange(top, bottom), np.arange(left, right))
    cover[top:bottom, left:right] |= pixels
    return bool(pixels.any())


def _uncovered(
    item: ViewedObject, cover: np.ndarray, min_visible_fraction: float
) -> ViewedObject | None:
    """The object as it was, or with the box of what is visible of it, or None if that is too
    little."""
    top, left, bottom, right = extent_in_bucket(item)
    above = cover[top:bottom, left:right]
    if not above.any():
        return item
    pixels = pixels_in_bucket(item, np.arange(top, bottom), np.arange(left, right))
    visible = pixels & (above ^ 1)
    before, after = int(pixels.sum()), int(visible.sum())
    if before == after:
        return item
    tight = bitmap_bounds(visible)
    if tight is None or after < min_visible_fraction * before:
        return None
    y1, x1, y2, x2 = tight
    box = np.asarray([left + x1, top + y1, left + x2, top + y2], np.float32)
    return item._replace(box=box, seen=box / item.view.factors, cover=cover)
