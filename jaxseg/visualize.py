"""Draw instances over an image: masks, outlines, boxes and names."""

import colorsys
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg import data, evaluation
from jaxseg.files import atomic_write

_MIN_SIDE = 512
"""Smaller images are enlarged to about this size before drawing, so that text stays readable."""
_MAX_LABELLED = 40
"""With more instances than this, names would cover the image and are left out."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TITLE_HEIGHT = 28


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    rles: Sequence[data.RLE] | None,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Return a picture (uint8 RGB) of n instances over an image, perhaps larger than it.

    Args:
        image: uint8 RGB `[h, w, 3]`.
        boxes: `[n, 4]`, xyxy in the image's pixels.
        labels: int `[n]`.
        names: the name of each label. A single name is not written.
        rles: n masks of the image's size, None to draw boxes alone.
        scores: `[n]`, written behind the names.
    """
    scale = max(1, round(_MIN_SIDE / max(image.shape[:2])))
    picture = _enlarge(image, scale)
    colors = [_color(i) for i in range(len(boxes))]
    # Large ones first, so that small ones stay visible.
    order = np.argsort(-_areas(boxes, rles), kind="stable").tolist()
    if rles is not None:
        for i in order:
            bitmap = _enlarge(mask_api.decode(rles[i]), scale)
            _draw_mask(picture, bitmap, colors[i])
    for i in order:
        x1, y1, x2, y2 = (round(float(v) * scale) for v in boxes[i])
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colors[i], 1)
    if len(boxes) <= _MAX_LABELLED and len(names) > 1:
        for i in order:
            text = names[int(labels[i])]
            if scores is not None:
                text = f"{text} {float(scores[i]):.2f}"
            x, y = round(float(boxes[i][0]) * scale), round(float(boxes[i][1]) * scale)
            _draw_label(picture, text, (x, y), colors[i])
    return picture


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


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Write an RGB picture, and make its folder if needed. Raises OSError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    with atomic_write(path) as partial:
        partial.write_bytes(encoded.tobytes())  # OpenCV writes no file whose name is not UTF-8


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeat each pixel `scale` times along both axes."""
    return np.ascontiguousarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def _color(number: int) -> tuple[int, int, int]:
    """Return a bright RGB colour; the hues of consecutive numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def _draw_mask(picture: np.ndarray, bitmap: np.ndarray, color: tuple[int, int, int]) -> None:
    """Blend a colour into a mask's pixels and draw the mask's outlines."""
    inside = bitmap.astype(bool)
    picture[inside] = (0.55 * picture[inside] + 0.45 * np.asarray(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, color, 1)


def _draw_label(
    picture: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Write black text on a label of the instance's colour, moved inside the picture."""
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
    x = max(min(corner[0], picture.shape[1] - width - 4), 0)
    y = max(corner[1], height + 5)
    cv2.rectangle(picture, (x, y - height - 5), (x + width + 3, y), color, -1)
    cv2.putText(picture, text, (x + 2, y - 3), _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def with_title(picture: np.ndarray, title: str) -> np.ndarray:
    """Return the picture below a bar with its title."""
    bar = np.full((_TITLE_HEIGHT, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (8, _TITLE_HEIGHT - 9), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture], axis=0)


def draw_comparison(
    source: data.Source, prediction: evaluation.Prediction, names: Sequence[str]
) -> np.ndarray:
    """Return a picture of an image's ground truth beside its prediction.

    Raises ValueError if the source has no image of the prediction's id.
    """
    example = source[list(source.image_ids).index(prediction.image_id)]
    truth = draw_instances(example.image, example.boxes, example.labels, names, example.rles)
    drawn = draw_prediction(example.image, prediction, names)
    return side_by_side(truth, drawn, ("ground truth", "prediction"))


def draw_prediction(
    image: np.ndarray,
    prediction: evaluation.Prediction,
    names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw the instances with at least the score `threshold` over the image."""
    shown = prediction.select(np.flatnonzero(prediction.scores >= threshold))
    return draw_instances(image, shown.boxes, shown.labels, names, shown.rles, shown.scores)
