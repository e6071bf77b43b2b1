"""An image of a COCO-format file as a TFDS record, and back; nothing is lost either way.

Terms:
    entry       an image in the file's `images`, a dict
    annotation  an object in the file's `annotations`, a dict
    number      an annotation's place in the file, which need not be ordered by image
    record      what TFDS stores for an image: the image file's bytes, the entry, its annotations
    head        all of the file but `images` and `annotations`

Fields that COCO's format names have a feature each; all others travel together as JSON text in
`more`. Boxes and areas are stored as bytes, since TFDS's own encoding of floats is float32.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data.source import Category

Numbered = tuple[int, dict[str, Any]]
"""An annotation's number, and the annotation."""

IMAGES_PER_SHARD = 1024
"""About 170 MB of COCO's photographs."""

_ENTRY = ("id", "file_name", "height", "width")
_ANNOTATION = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def features() -> Any:
    """The features of a record, a `tfds.features.FeaturesDict`; the label's names are not set.

    Names and types are those of TFDS's own `coco` where it has them. `bbox` is COCO's: x, y,
    width and height in pixels, as in the file.
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    return kinds.FeaturesDict(
        {
            "image": kinds.Image(doc="the file's bytes, not encoded anew"),
            "image/id": np.int64,
            "image/filename": kinds.Text(),
            "image/height": np.int64,
            "image/width": np.int64,
            "image/more": kinds.Text(doc="the image's other fields, as JSON"),
            "objects": kinds.Sequence(
                {
                    "id": np.int64,
                    "number": kinds.Scalar(np.int64, doc="place among all annotations"),
                    "bbox": kinds.Tensor(shape=(4,), dtype=np.float64, encoding="bytes"),
                    "area": kinds.Tensor(shape=(), dtype=np.float64, encoding="bytes"),
                    "label": kinds.ClassLabel(),
                    "is_crowd": np.bool_,
                    "segmentation": kinds.Text(doc="polygons or RLE, as JSON"),
                    "more": kinds.Text(doc="the annotation's other fields, as JSON"),
                }
            ),
        }
    )


def to_record(
    entry: Mapping[str, Any],
    image: bytes,
    annotations: Sequence[Numbered],
    label_of: Mapping[int, int],
) -> dict[str, Any]:
    """The record of an image, ready for `features().encode_example`.

    `label_of` gives a label for a category's id. A ValueError names what does not fit its feature:
    an id beyond 64 bits, an area that is no number, another `iscrowd` than 0 and 1.
    """
    return {
        "image": io.BytesIO(image),
        "image/id": _int64(entry["id"], "image id"),
        "image/filename": entry.get("file_name", ""),
        "image/height": entry["height"],
        "image/width": entry["width"],
        "image/more": _others(entry, _ENTRY),
        "objects": [_to_object(number, a, label_of) for number, a in annotations],
    }


def _to_object(number: int, annotation: Mapping[str, Any], label_of: Mapping[int, int]) -> Any:
    area, crowd = annotation["area"], annotation["iscrowd"]
    if isinstance(area, bool) or not isinstance(area, int | float):
        raise ValueError(f"annotation id {annotation['id']}: area {area!r} is not a number")
    if crowd not in (0, 1):
        raise ValueError(f"annotation id {annotation['id']}: iscrowd {crowd!r} is neither 0 nor 1")
    return {
        "id": _int64(annotation["id"], "annotation id"),
        "number": number,
        "bbox": annotation["bbox"],
        "area": area,
        "label": label_of[annotation["category_id"]],
        "is_crowd": bool(crowd),
        "segmentation": json.dumps(annotation["segmentation"], separators=(",", ":")),
        "more": _others(annotation, _ANNOTATION),
    }


def _int64(value: int, what: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{what} {value} does not fit into 64 bits")
    return value


def _others(fields: Mapping[str, Any], named: Sequence[str]) -> str:
    others = {name: value for name, value in fields.items() if name not in named}
    return json.dumps(others, separators=(",", ":")) if others else ""


class Instances:
    """How records of `features()` become COCO JSON again."""

    def __init__(self, head: dict[str, Any]):
        self.head = head
        self.categories = sorted(Category(c["id"], c["name"]) for c in head["categories"])

    def entry(self, record: Mapping[str, Any]) -> dict[str, Any]:
        name = record["image/filename"].decode()
        return {
            "id": int(record["image/id"]),
            **({"file_name": name} if name else {}),  # LVIS has none
            "height": int(record["image/height"]),
            "width": int(record["image/width"]),
            **json.loads(record["image/more"] or "{}"),
        }

    def annotations(self, record: Mapping[str, Any]) -> list[Numbered]:
        objects = record["objects"]
        return [
            (
                int(objects["number"][i]),
                {
                    "id": int(objects["id"][i]),
                    "image_id": int(record["image/id"]),
                    "category_id": self.categories[objects["label"][i]].id,
                    "bbox": objects["bbox"][i].tolist(),
                    "area": float(objects["area"][i]),
                    "iscrowd": int(objects["is_crowd"][i]),
                    "segmentation": json.loads(objects["segmentation"][i]),
                    **json.loads(objects["more"][i] or "{}"),
                },
            )
            for i in range(len(objects["id"]))
        ]
