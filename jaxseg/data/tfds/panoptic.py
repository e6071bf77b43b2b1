"""TFDS's own `coco/2017_panoptic` as instances.

Kirillov et al., Panoptic Segmentation, 2019 (https://cocodataset.org/#format-data, panoptic).
Every pixel of `panoptic_image` holds the id of its segment, R + 256 G + 65536 B. The segments
of the 80 things are instances with COCO's category ids; those of stuff are left out.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from jaxseg.data.coco.categories import COCO_CATEGORIES
from jaxseg.data.tfds.records import Numbered

_PLACES = 1_000_000
"""More than an image has segments."""

_IDS = {category.name: category.id for category in COCO_CATEGORIES}


class Panoptic:
    """How records of `coco/2017_panoptic` become COCO JSON.

    `names` are those of the set's labels, things and stuff.
    """

    def __init__(self, names: Sequence[str]):
        missing = sorted(_IDS.keys() - set(names))
        if missing:
            raise ValueError(
                f"the labels of panoptic_objects are not COCO's: {len(missing)} of its 80 things "
                f"are not among them, the first is {missing[0]!r}"
            )
        self._category = [_IDS.get(name) for name in names]
        self.categories = list(COCO_CATEGORIES)
        self.head: dict[str, Any] = {"categories": [c._asdict() for c in COCO_CATEGORIES]}

    def entry(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The image's entry; its size is that of the segments' picture, whose pixels are meant."""
        with Image.open(io.BytesIO(record["panoptic_image"])) as picture:
            width, height = picture.size
        return {
            "id": int(record["image/id"]),
            "file_name": record["image/filename"].decode(),
            "height": height,
            "width": width,
        }

    def annotations(self, record: Mapping[str, Any]) -> list[Numbered]:
        """The things, in the record's order.

        Boxes and areas are those of the masks: TFDS stores boxes as float32 shares of the image.
        Segment ids are unique in their image alone, so the annotations' ids are made from the
        image's: `image_id * 1,000,000 + place`.
        """
        objects = record["panoptic_objects"]
        with Image.open(io.BytesIO(record["panoptic_image"])) as picture:
            red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB"), np.int32), 2, 0)
        segments = red + 256 * green + 65536 * blue
        image_id = int(record["image/id"])
        found: list[Numbered] = []
        for place, (segment, label) in enumerate(zip(objects["id"], objects["label"], strict=True)):
            category = self._category[label]
            if category is None:
                continue
            mask = mask_api.encode(np.asfortranarray(segments == segment, np.uint8))
            if not mask_api.area(mask):
                name = record["panoptic_image/filename"].decode()
                raise ValueError(f"segment id {segment} of image id {image_id} is not in {name}")
            annotation = {
                "id": image_id * _PLACES + place,
                "image_id": image_id,
                "category_id": category,
                "bbox": mask_api.toBbox(mask).tolist(),
                "area": float(mask_api.area(mask)),
                "iscrowd": int(objects["is_crowd"][place]),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
                "segment_id": int(segment),
            }
            found.append((annotation["id"], annotation))
        return found
