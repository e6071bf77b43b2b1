"""LabelMe: a JSON file for each image, with shapes.

https://github.com/wkentaro/labelme writes it. Shapes with the same label and `group_id` are the
parts of one object.
"""

import base64
import binascii
import functools
import io
import math
import pathlib
from typing import Any

import numpy as np

from jaxseg.data.images import IMAGE_SUFFIXES, decode_image
from jaxseg.data.importers.files import (
    SourceFiles,
    heads,
    read_json,
)
from jaxseg.data.importers.objects import (
    Segmentation,
    as_points,
    check_polygons,
    ellipse,
    encode_bitmap,
    join,
    rectangle,
)
from jaxseg.data.importers.values import NO_SPLIT, ImportedData, ImportedImage, Object


def detect(source: pathlib.Path) -> bool:
    """Return whether one of the first JSON files of a source has LabelMe's shapes."""
    return any('"shapes"' in text and "{" in text[:10] for text in heads(source))


def read(files: SourceFiles) -> ImportedData:
    """Read the image of each JSON file. JSON files of other programs are counted as lost."""
    images: dict[pathlib.Path, ImportedImage] = {}
    for path in files.list_json():
        content = read_json(path)
        if not isinstance(content.get("shapes"), list):
            files.skipped.add("JSON file without LabelMe's shapes", files.name_of(path))
            continue
        image = _read_image(files, path, content)
        if image is None:
            continue
        if image.path in images:
            files.skipped.add("second annotation file of an image", files.name_of(path))
        else:
            images[image.path] = image
    if files.source.is_dir():
        for path in files.list_files(files.source, IMAGE_SUFFIXES):
            if path not in images:
                files.skipped.add("image without a JSON file, left out", files.name_of(path))
    names = {item.category for image in images.values() for item in image.objects}
    return ImportedData({NO_SPLIT: list(images.values())}, sorted(names), files.skipped)


def _read_image(
    files: SourceFiles, path: pathlib.Path, content: dict[str, Any]
) -> ImportedImage | None:
    claimed = _claimed_size(content)
    name = content.get("imagePath")
    folders = [path.parent] if isinstance(name, str) and name else []
    found = files.find_image(folders, str(name), files.name_of(path), _beside(path))
    if found is not None:
        size = files.measure(found, claimed)
        if size is None:
            return None
        return ImportedImage(
            files.name_of(found), found, size, _read_shapes(files, path, content, size)
        )
    if not isinstance(content.get("imageData"), str):
        files.skipped.add("image that is missing", f"{files.name_of(path)}: imagePath {name!r}")
        return None
    read_embedded = functools.partial(_embedded_image, path)
    try:
        pixels = decode_image(io.BytesIO(read_embedded()), f"imageData of {path}", claimed)
    except ValueError as error:
        files.skipped.add("image that cannot be read", error)
        return None
    height, width = pixels.shape[:2]
    suffix = pathlib.PurePosixPath(str(name)).suffix.lower()
    new_name = files.name_of(path.with_suffix(suffix if suffix in IMAGE_SUFFIXES else ".png"))
    objects = _read_shapes(files, path, content, (height, width))
    return ImportedImage(new_name, path, (height, width), objects, read_embedded)


def _beside(path: pathlib.Path) -> list[pathlib.Path]:
    """Return the paths of an image with the JSON file's own name."""
    return [path.with_suffix(suffix) for suffix in sorted(IMAGE_SUFFIXES)]


def _claimed_size(content: dict[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    return (height, width) if type(height) is int and type(width) is int else None


def _embedded_image(path: pathlib.Path) -> bytes:
    """Read the image that a JSON file holds as base64."""
    try:
        return base64.b64decode(read_json(path)["imageData"], validate=True)
    except (binascii.Error, KeyError, TypeError) as error:
        raise ValueError(f"{path}: imageData is not an image as base64: {error}") from error


def _read_shapes(
    files: SourceFiles, path: pathlib.Path, content: dict[str, Any], size: tuple[int, int]
) -> list[Object]:
    """Return the objects; shapes of the same label and group are joined."""
    masks: dict[tuple[str, Any], list[Segmentation]] = {}
    for number, shape in enumerate(content["shapes"]):
        where = f"{files.name_of(path)}: shapes[{number}]"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            files.skipped.add("shape without a label", where)
            continue
        flags = shape.get("flags")
        if shape.get("description") or (isinstance(flags, dict) and any(flags.values())):
            files.skipped.add("description or flags of a shape", where)
        mask = _read_shape(files, shape, size, where)
        if mask is not None:
            group = shape.get("group_id")
            own = ("shape", number) if group is None else ("group", str(group))
            masks.setdefault((label, own), []).append(mask)
    return [Object(label, join(parts, size)) for (label, _), parts in masks.items()]


def _read_shape(
    files: SourceFiles, shape: dict[str, Any], size: tuple[int, int], where: str
) -> Segmentation | None:
    """Return the mask of a shape; None, counted, if it has none."""
    kind = shape.get("shape_type") or "polygon"
    points = as_points(shape.get("points"))
    if points is None:
        files.skipped.add("shape with points that are not numbers", where)
        return None
    if kind == "mask":
        try:
            return _read_mask(shape.get("mask"), points, size, where)
        except ValueError as error:
            files.skipped.add("mask that cannot be read", error)
            return None
    outline: Any = points
    if kind == "rectangle" and len(points) == 2:
        outline = rectangle(*points[0].tolist(), *points[1].tolist())
    elif kind == "circle" and len(points) == 2:
        (x, y), (x2, y2) = points.tolist()
        radius = math.hypot(x2 - x, y2 - y)
        outline = ellipse(x, y, radius, radius)
    elif kind not in ("polygon", "rectangle"):
        files.skipped.add(f"shape {kind!r} without an area", where)
        return None
    polygons = check_polygons([outline], size, lambda reason: files.skipped.add(reason, where))
    return polygons or None


def _read_mask(data: Any, points: np.ndarray, size: tuple[int, int], where: str) -> Segmentation:
    """Return a mask that is a PNG as base64, placed at its box's top-left corner."""
    if not isinstance(data, str) or len(points) < 1 or not np.isfinite(points).all():
        raise ValueError(f"{where}: the mask is no base64 PNG with a box")
    try:
        png = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{where}: {error}") from error
    pixels = decode_image(io.BytesIO(png), f"{where}: the mask", None)[..., 0] > 0
    height, width = size
    left, top = points[0].round().clip(-(2**20), 2**20).astype(int).tolist()
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + pixels.shape[1], width), min(top + pixels.shape[0], height)
    bitmap = np.zeros(size, bool)
    if x1 < x2 and y1 < y2:
        bitmap[y1:y2, x1:x2] = pixels[y1 - top : y2 - top, x1 - left : x2 - left]
    return encode_bitmap(bitmap)
