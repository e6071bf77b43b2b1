"""COCO-format data: a folder with images and one JSON of annotations for each split.

Two layouts are read:

    annotations/instances_<split>.json  and  <split>/        COCO's own
    <split>.json                        and  images/

The JSON is read and checked once, when a split is opened; images are read when asked for.
Masks are given as polygons, compressed RLE or uncompressed RLE.
"""

import collections
import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.images import read_image
from jaxseg.data.source import RLE, Category, Example

_LOG = logging.getLogger(__name__)
_FARTHEST = 100_000
"""Pixels. pycocotools crashes on polygons with points much farther out, or with NaN."""


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """A COCO-format folder. `train` and `val` name the splits that stand for those roles."""

    path: str
    train: str = "train"
    val: str = "val"

    def open(self, split: str) -> "CocoSource":
        """The split of a role (`train`, `val`) or of a name of its own."""
        name = {"train": self.train, "val": self.val}.get(split, split)
        return CocoSource(pathlib.Path(self.path).expanduser(), name)


def find_split(folder: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The annotation file and the image folder of a split; an error that lists what is there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder {folder}")
    if (folder / f"{split}.json").is_file():
        return folder / f"{split}.json", folder / "images"
    own = folder / "annotations"
    if (own / f"instances_{split}.json").is_file():
        return own / f"instances_{split}.json", folder / split
    years = sorted(own.glob(f"instances_{split}20[0-9][0-9].json"))
    if len(years) == 1:
        return years[0], folder / years[0].stem.removeprefix("instances_")
    names = [p.stem for p in folder.glob("*.json")]
    names += [p.stem.removeprefix("instances_") for p in own.glob("instances_*.json")]
    found = ", ".join(sorted(names)) or "none"
    raise FileNotFoundError(
        f"{folder} has no split {split!r} (found: {found}); it needs {split}.json and images/, "
        f"or annotations/instances_{split}.json and {split}/"
    )


class CocoSource:
    """A checked split of a COCO-format folder, as a `Source`."""

    def __init__(self, folder: pathlib.Path, split: str):
        self.path, self.image_folder = find_split(folder, split)
        content = _read_json(self.path)
        self.categories: Sequence[Category] = _read_categories(content, self.path)
        self._label = {c.id: label for label, c in enumerate(self.categories)}
        self._images = _read_images(content, self.path)
        self.image_ids = [image["id"] for image in self._images]
        sizes = [(image["height"], image["width"]) for image in self._images]
        self.image_sizes = np.asarray(sizes, np.int32)
        self._annotations = _read_annotations(content, self.path, self._images, self._label)
        self._content = content
        files = [image["file_name"] for image in self._images]
        missing = [name for name in files if not (self.image_folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.path}: {len(missing)} of {len(files)} images are not in "
                f"{self.image_folder}, the first is {missing[0]}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> Example:
        entry = self._images[index]
        height, width = entry["height"], entry["width"]
        path = self.image_folder / entry["file_name"]
        image = read_image(path)
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but {self.path} says "
                f"{width}x{height} (image id {entry['id']})"
            )
        annotations = self._annotations[entry["id"]]
        boxes = np.asarray([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Example(
            image=image,
            image_id=entry["id"],
            boxes=boxes,
            labels=np.asarray([self._label[a["category_id"]] for a in annotations], np.int32),
            rles=[to_rle(a["segmentation"], height, width) for a in annotations],
            crowd=np.asarray([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        )

    def image_path(self, index: int) -> pathlib.Path:
        return self.image_folder / self._images[index]["file_name"]

    def ground_truth(self) -> dict[str, Any]:
        """The file's content, with `iscrowd` and `area` added to annotations that lack them."""
        size_of = {image["id"]: (image["height"], image["width"]) for image in self._images}
        complete = []
        for annotation in self._content["annotations"]:
            missing: dict[str, Any] = {} if "iscrowd" in annotation else {"iscrowd": 0}
            if "area" not in annotation:
                rle = to_rle(annotation["segmentation"], *size_of[annotation["image_id"]])
                missing["area"] = float(mask_api.area(rle))
            complete.append({**annotation, **missing})
        return {**self._content, "annotations": complete}


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Polygons, uncompressed or compressed RLE as compressed RLE with `bytes` counts."""
    if isinstance(segmentation, list):
        return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_api.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    return {"size": [height, width], "counts": counts}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not in COCO format: it is not a JSON object")
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{path} is not in COCO format: it has no list of {', '.join(missing)}")
    return content


def _read_categories(content: Mapping[str, Any], path: pathlib.Path) -> list[Category]:
    for number, category in enumerate(content["categories"]):
        _check_fields(category, ("id", "name"), f"{path}: categories[{number}]")
    categories = [Category(c["id"], c["name"]) for c in content["categories"]]
    _check_unique([c.id for c in categories], f"{path}: category id")
    return sorted(categories)


def _read_images(content: Mapping[str, Any], path: pathlib.Path) -> list[dict[str, Any]]:
    images = content["images"]
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        _check_fields(image, ("id", "file_name", "height", "width"), where)
        if image["height"] < 1 or image["width"] < 1:
            raise ValueError(f"{where} has no pixels: {image['width']}x{image['height']}")
    _check_unique([image["id"] for image in images], f"{path}: image id")
    if not images:
        raise ValueError(f"{path} has no images")
    return images


def _read_annotations(
    content: Mapping[str, Any],
    path: pathlib.Path,
    images: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
) -> dict[int, list[dict[str, Any]]]:
    """Checked annotations of each image; those without any area are left out and counted."""
    by_image: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    size_of = {image["id"]: (image["height"], image["width"]) for image in images}
    for number, annotation in enumerate(content["annotations"]):
        _check_fields(annotation, ("id",), f"{path}: annotations[{number}]")
        where = f"{path}: annotation id {annotation['id']}"
        _check_fields(annotation, ("image_id", "category_id", "bbox", "segmentation"), where)
        if annotation["image_id"] not in size_of:
            raise ValueError(f"{where}: image_id {annotation['image_id']} is not in images")
        if annotation["category_id"] not in labels:
            raise ValueError(
                f"{where}: category_id {annotation['category_id']} is not in categories"
            )
        _check_box(annotation["bbox"], where)
        _check_segmentation(annotation["segmentation"], size_of[annotation["image_id"]], where)
        if annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0:
            by_image[annotation["image_id"]].append(annotation)
    _check_unique([a["id"] for a in content["annotations"]], f"{path}: annotation id")
    flat = len(content["annotations"]) - sum(map(len, by_image.values()))
    if flat:
        _LOG.warning("%s: %d annotations have boxes without area and are left out", path, flat)
    return by_image


def _check_fields(entry: Any, fields: Sequence[str], where: str) -> None:
    """The fields are there, and those that count something are whole numbers."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not a JSON object")
    for field in fields:
        if field not in entry:
            raise ValueError(f"{where} has no {field}")
        whole = field in ("id", "image_id", "category_id", "height", "width")
        if whole and not isinstance(entry[field], int):
            raise ValueError(f"{where}: {field} {entry[field]!r} is not a whole number")


def _check_box(box: Any, where: str) -> None:
    numbers = isinstance(box, list) and len(box) == 4
    if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in box):
        raise ValueError(f"{where}: bbox {box} is not four finite numbers (x, y, width, height)")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: bbox {box} has a negative side")


def _check_segmentation(segmentation: Any, size: tuple[int, int], where: str) -> None:
    if isinstance(segmentation, list):
        if not segmentation:
            raise ValueError(f"{where}: segmentation is empty")
        for polygon in segmentation:
            _check_polygon(polygon, where)
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if segmentation["size"] != list(size):
            raise ValueError(
                f"{where}: the mask's size {segmentation['size']} is not the image's {list(size)}"
            )
        runs = _runs(segmentation["counts"], where)
        if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
            raise ValueError(f"{where}: the RLE's counts do not add up to the image's pixels")
    else:
        raise ValueError(f"{where}: segmentation is neither polygons nor RLE")


def _check_polygon(polygon: Any, where: str) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(
            f"{where}: a polygon must be a list of at least three points, x and y in turn"
        )
    try:
        near = bool((np.abs(np.asarray(polygon, np.float64)) <= _FARTHEST).all())
    except (TypeError, ValueError):
        near = False
    if not near:
        raise ValueError(
            f"{where}: a polygon's coordinates must be numbers, none beyond {_FARTHEST} pixels"
        )


def _runs(counts: Any, where: str) -> list[int]:
    """The lengths of an RLE's runs, compressed or not.

    They must fill the mask exactly: pycocotools does not check, and leaves pixels that no
    run covers as they happen to be in memory.

    Compressed, a number is characters of 5 bits each, lowest first, counted from "0"; bit 5
    says that another one follows, bit 4 of the last is the sign. From the fourth number on
    it is the difference from the run two before.
    """
    if isinstance(counts, list):
        if not all(isinstance(run, int) for run in counts):
            raise ValueError(f"{where}: the RLE's counts are not whole numbers")
        return counts
    broken = ValueError(f"{where}: the RLE's counts are not COCO's compressed text")
    if not isinstance(counts, str):
        raise broken
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in counts):
        if not 0 <= code < 64 or shift > 30:
            raise broken
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise broken
    return runs


def _check_unique(ids: Sequence[int], what: str) -> None:
    for value, count in collections.Counter(ids).items():
        if count > 1:
            raise ValueError(f"{what} {value} occurs {count} times")
