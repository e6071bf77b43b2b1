"""Semantic maps in a view, at the stride of a training target.

A map is resized as masks are: each pixel of the resized image takes the nearest original one, so no
class is invented and a map and a mask of the same pixels stay equal. At a stride, each cell takes
its middle pixel, since logits are enlarged from the middles of cells: of an even stride, whose
middle is between two pixels, the one to the right and below. MMDetection takes the top left one, so
that at a stride of 4 its panoptic maps are 1.5 pixels too far to the right and down.
"""

import numpy as np

from jaxseg.data.transforms.resize import nearest_pixels
from jaxseg.data.transforms.view import View
from jaxseg.types import IGNORED, ImageMasks


def view_semantic(
    semantic: np.ndarray, view: View, bucket: tuple[int, int], stride: int
) -> np.ndarray:
    """Return the view of a map, uint8 `[H/s, W/s]`, with `IGNORED` in the padding.

    A cell at the image's border whose middle pixel is padding is `IGNORED` too.

    Args:
        semantic: the map of the original image, uint8 `[h, w]`.
        view: the part of the image, and its size in the bucket.
        bucket: `(height, width)` of the padded image, multiples of the stride.
        stride: the pixels of the padded image in a row or column of a cell.
    """
    padded = np.full(ImageMasks(stride).shape(bucket), IGNORED, np.uint8)
    top, left, bottom, right = view.region
    region = semantic[top:bottom, left:right]
    if view.flipped:
        region = region[:, ::-1]
    rows, columns = (
        nearest_pixels(np.arange(stride // 2, resized, stride), resized, side, view.resize_backend)
        for resized, side in zip(view.size, view.region_size, strict=True)
    )
    padded[: len(rows), : len(columns)] = region[rows][:, columns]
    return padded


def paste_semantic(below: np.ndarray, other: np.ndarray, pasted: np.ndarray) -> None:
    """Copy the cells of `other` whose middle pixel is pasted into `below`, in place.

    Args:
        below: uint8 `[H/s, W/s]`.
        other: the map of the image that objects are pasted from, uint8 `[H/s, W/s]`.
        pasted: uint8 `[H, W]`, 1 where an object is pasted.
    """
    stride = len(pasted) // len(below)
    cells = pasted[stride // 2 :: stride, stride // 2 :: stride].astype(bool)
    below[cells] = other[cells]
