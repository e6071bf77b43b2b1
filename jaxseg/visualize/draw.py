"""Draw instances over an image: masks, outlines, boxes and labels."""

import colorsys
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg import data, evaluation
from jaxseg.files import atomic_write
from jaxseg.visualize.labels import place_labels

Color = tuple[int, int, int]
RED: Color = (255, 40, 40)
"""The colour of missed objects and false predictions; no other instance has it."""
GREY: Color = (170, 170, 170)
"""The colour of crowds."""

_MIN_SIDE = 800
"""Smaller images are enlarged to about this size before drawing, so that text stays readable."""
_CROWDED = 40
"""With more objects than this, labels are smaller, boxes with masks are left out, and the number of
objects is written in a corner."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class _Style(NamedTuple):
    """Sizes that fit a picture."""

    line: int
    """Width of lines in pixels."""
    font: float
    """Scale of the font; capitals are about 22 pixels high at 1."""
    stroke: int
    """Width of the font's lines in pixels."""


def _style(picture: np.ndarray, crowded: bool = False) -> _Style:
    """Return the sizes for a picture: lines of a pixel at 800 pixels, of five at 4,000."""
    side = max(picture.shape[:2])
    font = 0.4 * max(1.0, side / 1000) * (0.8 if crowded else 1.0)
    return _Style(max(1, round(side / 800)), font, max(1, round(font * 1.5)))


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    rles: Sequence[data.RLE] | None,
    scores: np.ndarray | None = None,
    *,
    colors: Sequence[Color] | None = None,
    marks: Sequence[str] | None = None,
) -> np.ndarray:
    """Return a picture (uint8 RGB) of n instances over an image, perhaps larger than it.

    Labels do not cover each other. Those that find no place beside their object are left out and
    counted in a corner.

    Args:
        image: uint8 RGB `[h, w, 3]`.
        boxes: `[n, 4]`, xyxy in the image's pixels.
        labels: int `[n]`.
        names: the name of each label. A single name is not written.
        rles: n masks of the image's size, None to draw boxes alone.
        scores: `[n]`, written behind the names.
        colors: n colours, RGB; by default of all hues but red.
        marks: n words that are written before the names, such as "missed"; marked instances have
            thick boxes.
    """
    count = len(boxes)
    colors = colors if colors is not None else [instance_color(i) for i in range(count)]
    marks = marks if marks is not None else [""] * count
    plain = int(rles is None or count <= _CROWDED)
    return draw_objects(
        image,
        boxes,
        rles,
        [_text(names, scores, labels, marks, i) for i in range(count)],
        colors,
        [2 if mark else plain for mark in marks],
        "instances",
    )


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    rles: Sequence[data.RLE] | None,
    texts: Sequence[str],
    colors: Sequence[Color],
    box_lines: Sequence[int],
    noun: str,
) -> np.ndarray:
    """Return a picture (uint8 RGB) of n objects over an image, perhaps larger than it.

    Args:
        image: uint8 RGB `[h, w, 3]`.
        boxes: `[n, 4]`, xyxy in the image's pixels, beside which the labels go.
        rles: n masks of the image's size, None to draw boxes alone.
        texts: the texts of the labels.
        colors: n colours, RGB.
        box_lines: the width of each box's lines, in those that fit the picture; 0 draws no box.
        noun: what the objects are, where their number is written.
    """
    scale = max(1, round(_MIN_SIDE / max(image.shape[:2])))
    picture = _enlarge(image, scale)
    style = _style(picture, len(boxes) > _CROWDED)
    # Large ones first, so that small ones stay visible.
    order = np.argsort(-_areas(boxes, rles), kind="stable").tolist()
    if rles is not None:
        for i in order:
            _draw_mask(picture, _enlarge(mask_api.decode(rles[i]), scale), colors[i], style.line)
    for i in order:
        if box_lines[i]:
            _draw_box(picture, boxes[i] * scale, colors[i], style.line * box_lines[i])
    left_out = _draw_labels(picture, np.asarray(boxes) * scale, texts, colors, style, noun)
    if len(boxes) > _CROWDED or left_out:
        unlabelled = f", {left_out} without a label" if left_out else ""
        _draw_note(picture, f"{len(boxes)} {noun}{unlabelled}")
    return picture


def _text(
    names: Sequence[str],
    scores: np.ndarray | None,
    labels: np.ndarray,
    marks: Sequence[str],
    i: int,
) -> str:
    """Return the text of an instance's label, "" if there is nothing to say."""
    words = [marks[i]] if marks[i] else []
    words += [names[int(labels[i])]] if len(names) > 1 else []
    words += [f"{float(scores[i]):.2f}"] if scores is not None else []
    return " ".join(words)


def _areas(boxes: np.ndarray, rles: Sequence[data.RLE] | None) -> np.ndarray:
    """Return the areas of masks, or of boxes without masks, in pixels, `[n]`."""
    if rles is not None:
        return np.asarray([mask_api.area(rle) for rle in rles], np.float64)
    sides = np.reshape(boxes, (-1, 2, 2))
    return (sides[:, 1] - sides[:, 0]).prod(axis=1)


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Return two pictures of the same size beside each other, each under its title."""
    return np.concatenate(
        [with_title(picture, title) for picture, title in zip((left, right), titles, strict=True)],
        axis=1,
    )


def save_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Write an RGB picture as the PNG or JPEG that `path` ends in, and make its folder if needed.

    Raises OSError if that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(picture[..., ::-1]))
    with atomic_write(path) as partial:
        partial.write_bytes(encoded.tobytes())  # OpenCV writes no file whose name is not UTF-8


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeat each pixel `scale` times along both axes."""
    return np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def instance_color(number: int) -> Color:
    """Return a bright RGB colour, not red; the hues of consecutive numbers are far apart."""
    hue = 0.1 + 0.8 * (number * 0.618034 % 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _draw_mask(picture: np.ndarray, bitmap: np.ndarray, color: Color, line: int) -> None:
    """Blend a colour into a mask's pixels and draw the mask's outlines."""
    inside = bitmap.astype(bool)
    picture[inside] = (0.55 * picture[inside] + 0.45 * np.asarray(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, color, line)


def _draw_box(picture: np.ndarray, box: np.ndarray, color: Color, line: int) -> None:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), color, line)


def _draw_labels(
    picture: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    style: _Style,
    noun: str,
) -> int:
    """Write the texts in black on their objects' colours; return how many find no place.

    No text is where the note of the number of objects goes, if there is one.
    """
    shown = [i for i, text in enumerate(texts) if text]
    sizes = [cv2.getTextSize(texts[i], _FONT, style.font, style.stroke)[0] for i in shown]
    margin = max(2, round(6 * style.font))
    label_sizes = np.asarray(sizes, int).reshape(-1, 2) + 2 * margin
    labelled = np.asarray(boxes, np.float32)[shown].reshape(-1, 4)
    picture_size = (picture.shape[0], picture.shape[1])
    places = place_labels(labelled, label_sizes, picture_size)
    if len(boxes) > _CROWDED or None in places:
        longest = f"{len(boxes)} {noun}, {len(boxes)} without a label"
        places = place_labels(labelled, label_sizes, picture_size, _note_box(picture, longest))
    for i, place, (width, height) in zip(shown, places, label_sizes.tolist(), strict=True):
        if place is None:
            continue
        x, y = place
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), colors[i], -1)
        corner = (x + margin, y + height - margin)
        cv2.putText(
            picture, texts[i], corner, _FONT, style.font, (0, 0, 0), style.stroke, cv2.LINE_AA
        )
    return sum(place is None for place in places)


def _note_box(picture: np.ndarray, text: str) -> np.ndarray:
    """Return the place (xyxy `[1, 4]`) of a note in the picture's bottom left corner."""
    style = _style(picture)
    (width, height), _ = cv2.getTextSize(text, _FONT, style.font, style.stroke)
    margin, bottom = round(12 * style.font), picture.shape[0]
    return np.asarray([[0, bottom - height - 2 * margin, width + 2 * margin, bottom]], float)


def _draw_note(picture: np.ndarray, text: str) -> None:
    """Write a line of text on white in the picture's bottom left corner."""
    style, margin = _style(picture), round(12 * _style(picture).font)
    x1, y1, x2, y2 = map(int, _note_box(picture, text)[0])
    cv2.rectangle(picture, (x1, y1), (x2, y2), (255, 255, 255), -1)
    corner = (margin, y2 - margin)
    cv2.putText(picture, text, corner, _FONT, style.font, (0, 0, 0), style.stroke, cv2.LINE_AA)


def with_title(picture: np.ndarray, title: str) -> np.ndarray:
    """Return the picture below a bar with its title, smaller if the picture is narrow."""
    style = _style(picture)
    font, height = style.font * 1.25, round(70 * style.font)
    bar = np.full((height, picture.shape[1], 3), 255, np.uint8)
    corner = (round(20 * style.font), height - round(22 * style.font))
    (width, _), _ = cv2.getTextSize(title, _FONT, font, style.stroke)
    font *= min(1.0, max(1, bar.shape[1] - 2 * corner[0]) / max(1, width))
    cv2.putText(bar, title, corner, _FONT, font, (0, 0, 0), style.stroke, cv2.LINE_AA)
    return np.concatenate([bar, picture], axis=0)


def select_certain(prediction: evaluation.Prediction, threshold: float) -> evaluation.Prediction:
    """Return the instances with at least the score `threshold`."""
    return prediction.select(np.flatnonzero(prediction.scores >= threshold))


def draw_prediction(
    image: np.ndarray,
    prediction: evaluation.Prediction,
    names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw the instances with at least the score `threshold` over the image."""
    shown = select_certain(prediction, threshold)
    return draw_instances(image, shown.boxes, shown.labels, names, shown.rles, shown.scores)
