"""Simple Copy-Paste (Ghiasi et al. 2021, section 3): paste objects of one image onto another.

The paper leaves two points open. Here the image grows to hold pasted objects that reach beyond
it, and the parts of its new rectangle that neither of them fills are grey, as the paper's padding.
And pasted objects that overlap each other as annotated stay so: only the objects below them lose
pixels.
"""

import cv2
import numpy as np

from jaxseg.data.masks.regions import bitmap_bounds
from jaxseg.data.transforms.objects import ViewedObject, bucket_bounds, visible_pixels

_GREY = 128
"""The fill value of Detectron2's and torchvision's large-scale jitter, too."""


def random_subset(objects: list[ViewedObject], rng: np.random.Generator) -> list[ViewedObject]:
    """Return 1 to all of the objects, each number and each choice equally likely.

    An empty list gives an empty list.
    """
    if not objects:
        return []
    count = int(rng.integers(1, len(objects), endpoint=True))
    return [objects[i] for i in sorted(rng.choice(len(objects), count, replace=False).tolist())]


def paste_objects(
    image: np.ndarray,
    size: tuple[int, int],
    below: list[ViewedObject],
    other: np.ndarray,
    pasted: list[ViewedObject],
    min_visible_fraction: float,
) -> tuple[tuple[int, int], list[ViewedObject], np.ndarray]:
    """Paste objects of the padded image `other` onto the padded image `image`, in place.

    Args:
        image: `[H, W, 3]`, of which `size` `(height, width)` is not padding.
        below: The objects of `image`.
        other: `[H, W, 3]`, of the same dtype.
        pasted: The objects of `other` to paste. Those without a pixel inside are left out.
        min_visible_fraction: See `CopyPaste`.

    Returns:
        `(height, width)` of the image, grown to hold what was pasted; all objects, those of `below`
        that are still visible, then the pasted ones; and the pasted pixels, uint8 `[H, W]`, 0 and
        1.
    """
    occluded = np.zeros(image.shape[:2], np.uint8)  # [H, W], 1 where an object is pasted
    pasted = [item for item in pasted if _add_pixels(item, occluded)]
    if not pasted:
        return size, below, occluded
    bounds = bitmap_bounds(occluded)
    assert bounds is not None
    height, width = max(bounds[2], size[0]), max(bounds[3], size[1])
    image[size[0] : height, :width] = _GREY
    image[: size[0], size[1] : width] = _GREY
    cv2.copyTo(other, occluded, image)
    remaining = [_occlude(item, occluded, min_visible_fraction) for item in below]
    kept = [item for item in remaining if item is not None]
    return (height, width), kept + pasted, occluded


def _add_pixels(item: ViewedObject, occluded: np.ndarray) -> bool:
    """Set an object's pixels in `occluded` `[H, W]`; return False if it has none."""
    top, left, bottom, right = bucket_bounds(item)
    pixels = visible_pixels(item, np.arange(top, bottom), np.arange(left, right))
    occluded[top:bottom, left:right] |= pixels
    return bool(pixels.any())


def _occlude(
    item: ViewedObject, occluded: np.ndarray, min_visible_fraction: float
) -> ViewedObject | None:
    """Return the object with the box of its visible pixels, or None if too few are visible.

    An object that loses no pixel is returned unchanged.
    """
    top, left, bottom, right = bucket_bounds(item)
    occluded_here = occluded[top:bottom, left:right]
    if not occluded_here.any():
        return item
    pixels = visible_pixels(item, np.arange(top, bottom), np.arange(left, right))
    visible = pixels & (occluded_here ^ 1)
    before, after = int(pixels.sum()), int(visible.sum())
    if before == after:
        return item
    bounds = bitmap_bounds(visible)
    if bounds is None or after < min_visible_fraction * before:
        return None
    y1, x1, y2, x2 = bounds
    box = np.asarray([left + x1, top + y1, left + x2, top + y2], np.float32)
    return item._replace(box=box, region_box=box / item.view.scale_factor, occluded=occluded)
