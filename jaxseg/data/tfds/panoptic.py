"""TFDS's own `coco/2017_panoptic`: things as instances, things and stuff as panoptic maps.

Each pixel of `panoptic_image` holds its segment's id (`jaxseg.data.coco.segment_ids`). The
categories are COCO's, with their ids.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.data.coco.categories import COCO_CATEGORIES, COCO_STUFF
from jaxseg.data.coco.segment_ids import SegmentMap, Segments, read_segments
from jaxseg.data.tfds.records import IndexedAnnotation

_IDS_PER_IMAGE = 1_000_000
"""Annotation ids reserved for each image: more than an image has segments."""

_LABELS = {category.name: label for label, category in enumerate(COCO_CATEGORIES + COCO_STUFF)}


class PanopticDecoder:
    """Converts records of `coco/2017_panoptic` to COCO JSON and maps.

    `names` are the names of the dataset's labels, things and stuff. `place` is the dataset and the
    split, for errors.
    """

    def __init__(self, names: Sequence[str], place: str):
        different = sorted(_LABELS.keys() ^ set(names))
        if different:
            raise ValueError(
                f"{place}: the labels of panoptic_objects are not COCO's 80 things and 53 classes "
                f"of stuff: {len(different)} differ, the first is {different[0]!r}"
            )
        self._labels = np.asarray([_LABELS[name] for name in names])  # things first
        self._place = place
        self.categories = [*COCO_CATEGORIES, *COCO_STUFF]
        self.num_things = len(COCO_CATEGORIES)
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

    def segment_map(self, record: Mapping[str, Any]) -> SegmentMap:
        """Return the segments, in the record's order, and their pixels.

        TFDS's boxes, float32 fractions of the image, are not read. Raises IssuesError if the map
        is not that of the segments.
        """
        image, objects = self.image(record), record["panoptic_objects"]
        segments = Segments(
            ids=np.asarray(objects["id"], np.int64),
            labels=self._labels[objects["label"]],
            iscrowd=np.asarray(objects["is_crowd"], bool),
            areas=np.asarray(objects["area"], np.int64),
            boxes=np.full((len(objects["id"]), 4), -1),
        )
        return read_segments(
            io.BytesIO(record["panoptic_image"]),
            f"{self._place}: {record['panoptic_image/filename'].decode()}",
            (image["height"], image["width"]),
            segments,
            image["id"],
            f"Skip the image in training by --data.source.ignore-image-ids {image['id']}",
        )

    def annotations(self, record: Mapping[str, Any]) -> list[IndexedAnnotation]:
        """Return the things, in the record's order, indexed by their ids.

        Segment ids are unique only within an image, so annotation ids are derived from the image's:
        `image_id * 1,000,000 + position`.
        """
        image_id, things = int(record["image/id"]), self.categories[: self.num_things]
        first_id = image_id * _IDS_PER_IMAGE
        found = self.segment_map(record).annotations(image_id, first_id, things)
        return [(annotation["id"], annotation) for annotation in found]
