"""Pictures of instances: masks, outlines, boxes and names over an image."""

import colorsys
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg import data, evaluation

_LEAST_SIDE = 512
"""Smaller images are enlarged to this before drawing, so that text stays readable."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TITLE_HEIGHT = 28


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    rles: Sequence[dict[str, Any]],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """A picture of n instances over an image.

    `image` is uint8 `[h, w, 3]`, `boxes` `[n, 4]` xyxy in its pixels, `rles` n masks of its
    size. The picture may be larger than the image.
    """
    scale = max(1, round(_LEAST_SIDE / max(image.shape[:2])))
    picture = _enlarge(image, scale)
    colors = [_color(i) for i in range(len(boxes))]
    # Large ones first, so that small ones are not painted over.
    order = sorted(range(len(boxes)), key=lambda i: -float(mask_api.area(rles[i])))
    for i in order:
        bitmap = _enlarge(mask_api.decode(rles[i]), scale)
        _paint_mask(picture, bitmap, colors[i])
    for i in order:
        x1, y1, x2, y2 = (round(float(v) * scale) for v in boxes[i])
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colors[i], 1)
    if len(boxes) <= 40 and len(names) > 1:
        for i in order:
            text = names[int(labels[i])]
            if scores is not None:
                text = f"{text} {float(scores[i]):.2f}"
            x, y = round(float(boxes[i][0]) * scale), round(float(boxes[i][1]) * scale)
            _write(picture, text, (x, y), colors[i])
    return picture


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two pictures of the same size, each under its title."""
    return np.concatenate(
        [_with_title(picture, title) for picture, title in zip((left, right), titles, strict=True)],
        axis=1,
    )


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes an RGB picture, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1])):
        raise OSError(f"could not write {path}")


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def _color(number: int) -> tuple[int, int, int]:
    """Bright colours, neighbours in number far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _paint_mask(picture: np.ndarray, bitmap: np.ndarray, color: tuple[int, int, int]) -> None:
    inside = bitmap.astype(bool)
    picture[inside] = (0.55 * picture[inside] + 0.45 * np.asarray(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, color, 1)


def _write(
    picture: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Dark text on a label of the instance's colour, kept inside the picture."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
    x = max(min(corner[0], picture.shape[1] - width - 4), 0)
    y = max(corner[1], height + 5)
    cv2.rectangle(picture, (x, y - height - 5), (x + width + 3, y), color, -1)
    cv2.putText(picture, text, (x + 2, y - 3), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def _with_title(picture: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((_TITLE_HEIGHT, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (8, _TITLE_HEIGHT - 9), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture], axis=0)


def beside_truth(
    source: data.Source, prediction: evaluation.Prediction, names: Sequence[str]
) -> np.ndarray:
    """A prediction beside what is annotated."""
    place = list(source.image_ids).index(prediction.image_id)
    example = source[place]
    truth = draw_instances(example.image, example.boxes, example.labels, names, example.rles)
    drawn = draw_prediction(example.image, prediction, names)
    return side_by_side(truth, drawn, ("ground truth", "prediction"))


def draw_prediction(
    image: np.ndarray,
    prediction: evaluation.Prediction,
    names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """The instances with at least this score, drawn over the image."""
    shown = np.flatnonzero(prediction.scores >= threshold)
    return draw_instances(
        image,
        prediction.boxes[shown],
        prediction.labels[shown],
        names,
        [prediction.rles[i] for i in shown],
        prediction.scores[shown],
    )
