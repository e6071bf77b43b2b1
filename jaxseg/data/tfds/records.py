"""Lossless conversion between the images of a COCO-format file and TFDS records.

Terms:
    image       an entry of the file's `images`, a dict
    annotation  an entry of the file's `annotations`, a dict
    index       an annotation's index in the file, which need not be ordered by image
    record      TFDS's data of one image: the bytes of the image file, the image, its annotations
    metadata    the file's fields other than `images` and `annotations`

Each field of COCO's format has its own feature; all others are stored together as JSON text in
`more`. Boxes and areas are stored as bytes, because TFDS encodes floats as float32.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data.source import Category

IndexedAnnotation = tuple[int, dict[str, Any]]
"""An annotation's index, and the annotation."""

IMAGES_PER_SHARD = 1024
"""About 170 MB of COCO's photographs."""

_IMAGE_FIELDS = ("id", "file_name", "height", "width")
_ANNOTATION_FIELDS = (
    "id",
    "image_id",
    "category_id",
    "bbox",
    "area",
    "iscrowd",
    "segmentation",
)


def features() -> Any:
    """Return a record's features, a `tfds.features.FeaturesDict`; label names are not set.

    Names and types are those of TFDS's own `coco` where it has them. `bbox` is COCO's: x, y,
    width and height in pixels, as in the file.
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    return kinds.FeaturesDict(
        {
            "image": kinds.Image(doc="the file's bytes, not re-encoded"),
            "image/id": np.int64,
            "image/filename": kinds.Text(),
            "image/height": np.int64,
            "image/width": np.int64,
            "image/more": kinds.Text(doc="the image's other fields, as JSON"),
            "objects": kinds.Sequence(
                {
                    "id": np.int64,
                    "index": kinds.Scalar(np.int64, doc="index among the split's annotations"),
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
    image: Mapping[str, Any],
    data: bytes,
    annotations: Sequence[IndexedAnnotation],
    label_of: Mapping[int, int],
) -> dict[str, Any]:
    """Return the record of an image, for `features().encode_example`.

    Args:
        image: the entry of the file's `images`.
        data: the bytes of the image file.
        annotations: those of the image.
        label_of: the label of each category id.

    Raises:
        ValueError: a value does not fit its feature: an id of more than 64 bits, an area that is
            not a number, or an `iscrowd` other than 0 and 1.
    """
    return {
        "image": io.BytesIO(data),
        "image/id": _int64(image["id"], "image id"),
        "image/filename": image.get("file_name", ""),
        "image/height": image["height"],
        "image/width": image["width"],
        "image/more": _other_fields(image, _IMAGE_FIELDS),
        "objects": [_to_object(index, a, label_of) for index, a in annotations],
    }


def _to_object(index: int, annotation: Mapping[str, Any], label_of: Mapping[int, int]) -> Any:
    area, iscrowd = annotation["area"], annotation["iscrowd"]
    if isinstance(area, bool) or not isinstance(area, int | float):
        raise ValueError(f"annotation id {annotation['id']}: area {area!r} is not a number")
    if iscrowd not in (0, 1):
        raise ValueError(
            f"annotation id {annotation['id']}: iscrowd {iscrowd!r} is neither 0 nor 1"
        )
    return {
        "id": _int64(annotation["id"], "annotation id"),
        "index": index,
        "bbox": annotation["bbox"],
        "area": area,
        "label": label_of[annotation["category_id"]],
        "is_crowd": bool(iscrowd),
        "segmentation": json.dumps(annotation["segmentation"], separators=(",", ":")),
        "more": _other_fields(annotation, _ANNOTATION_FIELDS),
    }


def _int64(value: int, name: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} {value} does not fit into 64 bits")
    return value


def _other_fields(entry: Mapping[str, Any], known: Sequence[str]) -> str:
    """Return the fields outside `known` as JSON; an empty text if there are none."""
    others = {name: value for name, value in entry.items() if name not in known}
    return json.dumps(others, separators=(",", ":")) if others else ""


class InstanceDecoder:
    """Converts records of `features()` back to COCO JSON."""

    def __init__(self, metadata: dict[str, Any]):
        self.metadata = metadata
        self.categories = sorted(Category(c["id"], c["name"]) for c in metadata["categories"])

    def image(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image as an entry of COCO's `images`."""
        name = record["image/filename"].decode()
        return {
            "id": int(record["image/id"]),
            **({"file_name": name} if name else {}),  # LVIS has none
            "height": int(record["image/height"]),
            "width": int(record["image/width"]),
            **json.loads(record["image/more"] or "{}"),
        }

    def annotations(self, record: Mapping[str, Any]) -> list[IndexedAnnotation]:
        """Return the image's annotations, in the record's order."""
        objects = record["objects"]
        return [
            (
                int(objects["index"][i]),
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
