"""Panoptic results in COCO's format: a list of segments and a PNG for each image.

https://cocodataset.org/#format-results: a pixel's segment id is R + 256 G + 65536 B, 0 is void.
While a result is in memory or sent between processes it holds its PNG as text (base64) in the
field `png`: a hundredth of the map itself. On disk the PNGs are files in a folder beside the JSON,
`panoptic/` beside `panoptic.json`, as panopticapi expects them.
"""

import base64
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int

from jaxseg.data.coco.segment_ids import MAX_ID
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import Category
from jaxseg.files import atomic_write


def panoptic_result(
    image_id: int, panoptic: PanopticMap, category_ids: Sequence[int], name: str | None = None
) -> dict[str, Any]:
    """Return one image's panoptic map as a result.

    Segments have the fields of COCO's annotations, and things their score.

    Args:
        image_id: the dataset's id of the image.
        panoptic: the map.
        category_ids: the dataset's id of each label.
        name: the name of the PNG without its ending, the image's id by default.
    """
    areas = np.bincount(panoptic.ids.ravel())
    segments = []
    for segment in panoptic.segments:
        x, y, width, height = cv2.boundingRect((panoptic.ids == segment.id).astype(np.uint8))
        score = {} if segment.score is None else {"score": segment.score}
        segments.append(
            {
                "id": segment.id,
                "category_id": category_ids[segment.label],
                "area": int(areas[segment.id]),
                "bbox": [x, y, width, height],
                "iscrowd": int(segment.iscrowd),
            }
            | score
        )
    return {
        "image_id": image_id,
        "file_name": f"{name or image_id}.png",
        "segments_info": segments,
        "png": base64.b64encode(encode_ids(panoptic.ids)).decode("ascii"),
    }


def from_panoptic_result(result: Mapping[str, Any], label_of: Mapping[int, int]) -> PanopticMap:
    """Return the map of a result, the inverse of `panoptic_result`.

    `label_of` is the label of each category id.
    """
    segments = [
        Segment(s["id"], label_of[s["category_id"]], bool(s.get("iscrowd", 0)), s.get("score"))
        for s in result["segments_info"]
    ]
    return PanopticMap(decode_ids(base64.b64decode(result["png"])), segments)


def write_panoptic_results(
    results: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    num_things: int,
    path: pathlib.Path,
) -> None:
    """Write results to a JSON file and a folder beside it, each file atomically, the JSON last."""
    for result in results:
        write_panoptic_png(result, path.with_suffix(""))
    write_panoptic_json(results, categories, num_things, path)


def write_panoptic_png(result: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Write the PNG of a result, atomically; the folder is made if it is missing."""
    folder.mkdir(exist_ok=True)
    with atomic_write(folder / result["file_name"]) as partial:
        partial.write_bytes(base64.b64decode(result["png"]))


def write_panoptic_json(
    results: Sequence[Mapping[str, Any]],
    categories: Sequence[Category],
    num_things: int,
    path: pathlib.Path,
    images: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the JSON of results, atomically.

    With `images`, COCO's entries of them, the file is also a ground truth.
    """
    content = {
        "images": list(images),
        "annotations": [{k: v for k, v in r.items() if k != "png"} for r in results],
        "categories": [
            {"id": category.id, "name": category.name, "isthing": int(label < num_things)}
            for label, category in enumerate(categories)
        ],
    }
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content))


def read_panoptic_results(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the results in a JSON file and the folder beside it.

    Raises OSError for a file that is missing.
    """
    folder = path.with_suffix("")
    return [
        annotation
        | {"png": base64.b64encode((folder / annotation["file_name"]).read_bytes()).decode("ascii")}
        for annotation in json.loads(path.read_text())["annotations"]
    ]


def encode_ids(ids: Int[np.ndarray, "h w"]) -> bytes:
    """Return a map of segment ids as a PNG. Raises ValueError for an id that is too large."""
    if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise ValueError(f"segment ids are from {ids.min()} to {ids.max()}; a PNG holds {MAX_ID}")
    bgr = np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)
    return cv2.imencode(".png", bgr)[1].tobytes()


def decode_ids(png: bytes) -> Int[np.ndarray, "h w"]:
    """Return the segment ids (int32) of a PNG. Raises ValueError unless it is one of 8-bit RGB."""
    data = np.frombuffer(png, np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if bgr is None or bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3:
        raise ValueError("it is not a PNG of 8-bit RGB")
    blue, green, red = np.moveaxis(bgr.astype(np.int32), -1, 0)
    return red + 256 * green + 65536 * blue
