"""Writes any source as COCO-format data."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.source import Source


def coco_json(source: Source) -> dict[str, Any]:
    """All examples of a source as COCO JSON, with RLE counts as text."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(source)):
        example = source[index]
        height, width = example.image.shape[:2]
        name = f"{example.image_id:08}.png"
        images.append({"id": example.image_id, "file_name": name, "height": height, "width": width})
        for box, label, rle, crowd in zip(
            example.boxes.tolist(), example.labels, example.rles, example.iscrowd, strict=True
        ):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": example.image_id,
                    "category_id": source.categories[label].id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(mask_api.area(rle)),
                    "iscrowd": int(crowd),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )
    categories = [{"id": c.id, "name": c.name} for c in source.categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(source: Source, folder: pathlib.Path, split: str) -> None:
    """Writes a source as `folder/<split>.json` and PNG files in `folder/images`.

    Image names carry the split, so that several splits fit into one folder.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    content = coco_json(source)
    for index, entry in enumerate(content["images"]):
        entry["file_name"] = f"{split}_{entry['file_name']}"
        bgr = np.ascontiguousarray(source[index].image[..., ::-1])
        if not cv2.imwrite(str(images / entry["file_name"]), bgr):
            raise OSError(f"could not write {images / entry['file_name']}")
    (folder / f"{split}.json").write_text(json.dumps(content))
