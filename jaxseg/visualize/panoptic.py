"""Draw panoptic maps: things as instances, each class of stuff in a colour of its own."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as mask_api

from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.evaluation.panoptic_quality import match_segments
from jaxseg.visualize.draw import GREY, RED, Color, draw_objects, instance_color, side_by_side


def draw_panoptic(
    image: UInt8[np.ndarray, "h w 3"],
    panoptic: PanopticMap,
    names: Sequence[str],
    num_things: int,
    *,
    colors: Sequence[Color] | None = None,
    marks: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture (RGB) of the segments over an image, perhaps larger than it.

    Void stays as it is.

    Args:
        image: RGB.
        panoptic: the map of the image.
        names: the name of each label.
        num_things: the number of things, the first labels.
        colors: a colour of each segment, by default those of `segment_colors`.
        marks: words that are written before the names, such as "missed".
    """
    masks = [(panoptic.ids == segment.id).astype(np.uint8) for segment in panoptic.segments]
    boxes = [
        _bounds(mask) if segment.label < num_things else _middle(mask)
        for mask, segment in zip(masks, panoptic.segments, strict=True)
    ]
    marks = marks if marks is not None else [""] * len(masks)
    return draw_objects(
        image,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        [mask_api.encode(np.asfortranarray(mask)) for mask in masks],
        [
            " ".join(filter(None, (mark, names[segment.label], _score(segment))))
            for mark, segment in zip(marks, panoptic.segments, strict=True)
        ],
        colors if colors is not None else segment_colors(panoptic, num_things),
        [0] * len(masks),
        "segments",
    )


def draw_panoptic_comparison(
    image: UInt8[np.ndarray, "h w 3"],
    truth: PanopticMap,
    found: PanopticMap,
    names: Sequence[str],
    num_things: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture (RGB) of an image's true panoptic map beside the predicted one.

    A true thing and the prediction that finds it have one colour, missed and false things are red,
    crowds and what is predicted in them or in void grey. Stuff has the colour of its class; missed
    and false stuff is marked.
    """
    matches = match_segments(truth, found)
    colors = segment_colors(truth, num_things)
    missed, false = set(matches.missed), set(matches.false)
    for i, segment in enumerate(truth.segments):
        if segment.iscrowd:
            colors[i] = GREY
        elif segment.label < num_things and segment.id in missed:
            colors[i] = RED
    color_of = dict(zip((segment.id for segment in truth.segments), colors, strict=True))
    found_colors = segment_colors(found, num_things)
    for i, segment in enumerate(found.segments):
        if segment.label < num_things and segment.id in matches.matched:
            found_colors[i] = color_of[matches.matched[segment.id][0]]
        elif segment.label < num_things:
            found_colors[i] = RED if segment.id in false else GREY
    left = draw_panoptic(
        image,
        truth,
        names,
        num_things,
        colors=colors,
        marks=[
            "crowd" if segment.iscrowd else "missed" if segment.id in missed else ""
            for segment in truth.segments
        ],
    )
    right = draw_panoptic(
        image,
        found,
        names,
        num_things,
        colors=found_colors,
        marks=["false" if segment.id in false else "" for segment in found.segments],
    )
    titles = (
        f"ground truth: {len(truth.segments)} segments, missed: {len(missed)}",
        f"prediction: {len(found.segments)} segments, false: {len(false)}",
    )
    return side_by_side(left, right, titles)


def segment_colors(panoptic: PanopticMap, num_things: int) -> list[Color]:
    """Return a colour of each segment: bright ones of things, dull ones of the classes of stuff."""
    return [
        instance_color(number) if segment.label < num_things else stuff_color(segment.label)
        for number, segment in enumerate(panoptic.segments)
    ]


def stuff_color(label: int) -> Color:
    """Return a dull RGB colour; the hues of consecutive labels are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.45, 0.7)
    return int(red * 255), int(green * 255), int(blue * 255)


def _score(segment: Segment) -> str:
    return "" if segment.score is None else f"{segment.score:.2f}"


def _bounds(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Return the box of a mask, xyxy."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height


def _middle(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Return the pixel of a mask that is farthest from its outside, as a box."""
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(depth), mask.shape)
    return int(x), int(y), int(x) + 1, int(y) + 1
