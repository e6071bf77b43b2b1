"""A COCO-format folder of two images, with every kind of mask."""

import json

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data import CocoFolder

SIZE = [20, 30]


def disc():
    bitmap = np.zeros(SIZE, np.uint8)
    cv2.circle(bitmap, (12, 9), 6, 1, -1)
    return bitmap


def uncompressed(bitmap):
    flat = bitmap.flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": SIZE, "counts": np.diff([0, *changes, flat.size]).tolist()}


def compressed(bitmap):
    rle = mask_api.encode(np.asfortranarray(bitmap))
    return {"size": SIZE, "counts": rle["counts"].decode()}


def content():
    square = [[4.0, 2.0, 14.0, 2.0, 14.0, 12.0, 4.0, 12.0]]
    other = [[1, 1, 5, 1, 5, 5, 1, 5]]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 2, 10, 10], "segmentation": square},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 9,
            "bbox": [6, 3, 13, 13],
            "segmentation": compressed(disc()),
        },
        {
            "id": 3,
            "image_id": 7,
            "category_id": 9,
            "bbox": [6, 3, 13, 13],
            "segmentation": uncompressed(disc()),
            "iscrowd": 1,
        },
        {"id": 4, "image_id": 7, "category_id": 5, "bbox": [1, 1, 0, 4], "segmentation": other},
    ]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 8, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "cell"}, {"id": 5, "name": "box"}],
    }


def write(folder, data):
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "images" / name), np.full((*SIZE, 3), 90, np.uint8))
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "train.json").write_text(text)
    return CocoFolder(str(folder))


def changed(data, path, value):
    """Return `data` with one value replaced in place, or removed where `value` is ..."""
    *parents, last = path
    container = data
    for key in parents:
        container = container[key]
    if value is ...:
        del container[last]
    else:
        container[last] = value
    return data
