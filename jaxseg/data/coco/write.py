"""Write a source as COCO-format data."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.panoptic import thing_categories
from jaxseg.data.source import Example, Source


def coco_json(source: Source) -> dict[str, Any]:
    """Return the objects of all examples of a source as COCO JSON, with RLE counts as text."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(source)):
        example = source[index]
        height, width = example.image.shape[:2]
        name = f"{example.image_id:08}.png"
        images.append({"id": example.image_id, "file_name": name, "height": height, "width": width})
        annotations += _annotations(example, source, first_id=len(annotations) + 1)
    categories = [category._asdict() for category in thing_categories(source)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(example: Example, source: Source, first_id: int) -> list[dict[str, Any]]:
    """Return the annotations of one image."""
    objects = zip(
        example.boxes.tolist(), example.labels, example.rles, example.iscrowd, strict=True
    )
    return [
        {
            "id": annotation_id,
            "image_id": example.image_id,
            "category_id": source.categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(mask_api.area(rle)),
            "iscrowd": int(iscrowd),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        for annotation_id, ((x1, y1, x2, y2), label, rle, iscrowd) in enumerate(objects, first_id)
    ]


def write_coco(source: Source, folder: pathlib.Path, split: str) -> None:
    """Write a source as `folder/<split>.json` and PNG files in `folder/images`.

    Image names start with the split, so that several splits can share a folder.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    content = coco_json(source)
    for index, image in enumerate(content["images"]):
        image["file_name"] = f"{split}_{image['file_name']}"
        bgr = np.ascontiguousarray(source[index].image[..., ::-1])
        if not cv2.imwrite(str(images / image["file_name"]), bgr):
            raise OSError(f"could not write {images / image['file_name']}")
    (folder / f"{split}.json").write_text(json.dumps(content))
