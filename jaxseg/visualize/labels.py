"""Places for labels beside their boxes, none of which covers another."""

import itertools

import numpy as np
from jaxtyping import Float, Int

_REACH = 3
"""Largest distance of a label from its box, in heights of the label."""


def place_labels(
    boxes: Float[np.ndarray, "n 4"],
    label_sizes: Int[np.ndarray, "n 2"],
    picture_size: tuple[int, int],
    reserved: Float[np.ndarray, "r 4"] | None = None,
) -> list[tuple[int, int] | None]:
    """Return each label's top-left corner `(x, y)` in pixels, or None where it finds no place.

    Earlier labels choose first. A label goes above its box, or to the nearest place around the
    box's top, in the box or at its bottom where it covers no other label and is inside the picture.

    Args:
        boxes: `xyxy` in pixels of the picture.
        label_sizes: `(width, height)` of each label in pixels.
        picture_size: `(height, width)`.
        reserved: `xyxy` of places that stay free.
    """
    placed = np.zeros((0, 4)) if reserved is None else reserved
    corners: list[tuple[int, int] | None] = []
    for box, (width, height) in zip(boxes, label_sizes.tolist(), strict=True):
        places = _candidates(box, width, height, picture_size)  # [c, 4]
        free = np.flatnonzero(~_overlaps(places, placed).any(axis=1))
        if not free.size:
            corners.append(None)
            continue
        place = places[free[0]]
        placed = np.concatenate([placed, place[None]])
        corners.append((int(place[0]), int(place[1])))
    return corners


def _candidates(
    box: np.ndarray, width: int, height: int, picture_size: tuple[int, int]
) -> np.ndarray:
    """Return the places (xyxy `[c, 4]`) for a label of a box, the best first."""
    x1, y1, x2, y2 = np.round(box).tolist()
    best = [(x, y) for y in (y1 - height, y1, y2 - height, y2) for x in (x1, x2 - width)]
    steps = range(-_REACH * 2, _REACH * 2 + 1)
    around = [
        (x1 + column * width / 4, y1 - height + row * height / 2)
        for row, column in sorted(
            itertools.product(steps, steps), key=lambda s: s[0] ** 2 + s[1] ** 2
        )
    ]
    corners = np.floor(np.asarray([*best, *around]))  # [c, 2]
    limits = np.asarray([picture_size[1] - width, picture_size[0] - height])
    corners = corners.clip(0, np.maximum(limits, 0))
    return np.concatenate([corners, corners + np.asarray([width, height])], axis=1)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which rectangles (xyxy `[n, 4]` and `[m, 4]`) share a pixel, bool `[n, m]`."""
    starts = np.maximum(a[:, None, :2], b[None, :, :2])
    ends = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (starts < ends).all(axis=2)
