"""A folder of COCO's panoptic format with two images."""

import json

import cv2
import numpy as np
from PIL import Image

from jaxseg.data import CocoFolder

SIZE = (20, 30)
CATEGORIES = [
    {"id": 9, "name": "sky", "isthing": 0},
    {"id": 30, "name": "dog", "isthing": 1},
    {"id": 4, "name": "grass", "isthing": 0},
    {"id": 12, "name": "person", "isthing": 1},
]
LABELS = {12: 0, 30: 1, 4: 2, 9: 3}
"""The label of each category id: things by id, then stuff by id."""


def pixels():
    """Return the ids of the first image: of one, two and three bytes, with void around a disc."""
    ids = np.full(SIZE, 7)
    ids[12:] = 300
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (yy - 9) ** 2 + (xx - 12) ** 2
    ids[distance < 36] = 0
    ids[distance < 25] = 70_000
    ids[2:8, 20:28] = 16_000_000
    ids[14:18, 2:5] = 70_001
    ids[14:18, 25:28] = 70_001
    return ids


def second_pixels():
    """Return the ids of the second image, which are those of a segment of the first one, too."""
    return np.full(SIZE, 7)


def segment(ids, segment_id, category_id, iscrowd=0):
    rows, columns = np.nonzero(ids == segment_id)
    x, y = int(columns.min()), int(rows.min())
    box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
    return {
        "id": segment_id,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "bbox": box,
        "area": len(rows),
    }


def content():
    first, second = pixels(), second_pixels()
    segments = [
        segment(first, 16_000_000, 12, iscrowd=1),
        segment(first, 7, 9),
        segment(first, 70_001, 30),
        segment(first, 300, 4),
        segment(first, 70_000, 12),
    ]
    return {
        "images": [
            {"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 3, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        # In another order than the images.
        "annotations": [
            {"image_id": 3, "file_name": "b.png", "segments_info": [segment(second, 7, 9)]},
            {"image_id": 5, "file_name": "a.png", "segments_info": segments},
        ],
        "categories": [dict(category) for category in CATEGORIES],
    }


def encode(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def write(folder, data, split="train"):
    """Write images, maps and the JSON; return the config of the folder."""
    maps = folder / "annotations" / f"panoptic_{split}"
    maps.mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    for name, ids in (("a.png", pixels()), ("b.png", second_pixels())):
        cv2.imwrite(str(folder / split / name), np.full((*SIZE, 3), 90, np.uint8))
        Image.fromarray(encode(ids)).save(maps / name)
    text = data if isinstance(data, str) else json.dumps(data)
    maps.with_suffix(".json").write_text(text)
    return CocoFolder(str(folder))
