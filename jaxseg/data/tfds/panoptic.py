"""Instances from TFDS's own `coco/2017_panoptic`.

Kirillov et al., Panoptic Segmentation, 2019 (https://cocodataset.org/#format-data, panoptic).
Each pixel of `panoptic_image` stores its segment's id as R + 256 G + 65536 B. The segments of the
80 things are instances with COCO's category ids; the segments of stuff are skipped.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from jaxseg.data.coco.categories import COCO_CATEGORIES
from jaxseg.data.tfds.records import IndexedAnnotation

_IDS_PER_IMAGE = 1_000_000
"""Annotation ids reserved for each image: more than an image has segments."""

_IDS = {category.name: category.id for category in COCO_CATEGORIES}


class PanopticDecoder:
    """Converts records of `coco/2017_panoptic` to COCO JSON.

    `names` are the names of the dataset's labels, things and stuff.
    """

    def __init__(self, names: Sequence[str]):
        missing = sorted(_IDS.keys() - set(names))
        if missing:
            raise ValueError(
                f"the labels of panoptic_objects are not COCO's: {len(missing)} of its 80 things "
                f"are missing, the first is {missing[0]!r}"
            )
        self._category_ids = [_IDS.get(name) for name in names]  # by label; None for stuff
        self.categories = list(COCO_CATEGORIES)
        self.metadata: dict[str, Any] = {"categories": [c._asdict() for c in COCO_CATEGORIES]}

    def image(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image as an entry of COCO's `images`, with the size of the panoptic image."""
        with Image.open(io.BytesIO(record["panoptic_image"]), formats=("PNG",)) as panoptic:
            width, height = panoptic.size
        return {
            "id": int(record["image/id"]),
            "file_name": record["image/filename"].decode(),
            "height": height,
            "width": width,
        }

    def annotations(self, record: Mapping[str, Any]) -> list[IndexedAnnotation]:
        """Return the things, in the record's order, indexed by their ids.

        Boxes and areas are computed from the masks, because TFDS stores boxes as float32 fractions
        of the image. Segment ids are unique only within an image, so annotation ids are derived
        from the image's: `image_id * 1,000,000 + position`.
        """
        objects = record["panoptic_objects"]
        with Image.open(io.BytesIO(record["panoptic_image"]), formats=("PNG",)) as panoptic:
            red, green, blue = np.moveaxis(np.asarray(panoptic.convert("RGB"), np.int32), 2, 0)
        segments = red + 256 * green + 65536 * blue  # [h, w]
        image_id = int(record["image/id"])
        found: list[IndexedAnnotation] = []
        pairs = zip(objects["id"], objects["label"], strict=True)
        for position, (segment, label) in enumerate(pairs):
            category_id = self._category_ids[label]
            if category_id is None:
                continue
            mask = mask_api.encode(np.asfortranarray(segments == segment, np.uint8))
            if not mask_api.area(mask):
                name = record["panoptic_image/filename"].decode()
                raise ValueError(f"segment id {segment} of image id {image_id} is not in {name}")
            annotation = {
                "id": image_id * _IDS_PER_IMAGE + position,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": mask_api.toBbox(mask).tolist(),
                "area": float(mask_api.area(mask)),
                "iscrowd": int(objects["is_crowd"][position]),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
                "segment_id": int(segment),
            }
            found.append((annotation["id"], annotation))
        return found
