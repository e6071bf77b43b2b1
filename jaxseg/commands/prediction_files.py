"""The files that `jaxseg predict` writes: COCO results, a COCO dataset, masks, panoptic maps."""

import json
import os
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any, TextIO

import cv2
import numpy as np
from pycocotools import mask as mask_api

from jaxseg import data, evaluation
from jaxseg.commands.written_files import WrittenFiles
from jaxseg.data.masks.regions import mask_bounds
from jaxseg.data.panoptic import PanopticMap
from jaxseg.files import atomic_write
from jaxseg.instances import Instances

_MAX_LABEL = 65_535


class PredictionFiles:
    """Writes what was found, image by image.

    Results are appended to `predictions.incomplete.jsonl`, one in each line, which becomes
    `predictions.json` at the end. `dataset.json` is a COCO dataset of the images, which are linked
    or written in `images/`: the folder `out` is a `CocoFolder` with the split "dataset". A panoptic
    model's maps are written as `panoptic/*.png`, and at the end `panoptic.json`.
    `finish` removes the files that earlier runs listed in `written` and this one has not written.

    Args:
        out: the folder, which exists.
        categories: the model's categories, those of things first.
        num_things: number of thing categories.
        masks: write `masks/*.png` and `masks/*.json`.
    """

    def __init__(
        self,
        out: pathlib.Path,
        categories: Sequence[data.Category],
        num_things: int,
        *,
        masks: bool,
    ):
        self._out, self._categories, self._masks = out, categories, masks
        self._num_things = num_things
        self._results: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._incomplete = out / "predictions.incomplete.jsonl"
        self._lines: TextIO | None = None
        (out / "images").mkdir(exist_ok=True)
        self.written = WrittenFiles(out, ("images", "masks", "panoptic"))

    def __enter__(self) -> "PredictionFiles":
        self._lines = self._incomplete.open("w")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def add(
        self, found: Instances, certain: Instances, stem: str, reference: dict[str, Any]
    ) -> None:
        """Write one image's results.

        Args:
            found: all instances, for the results.
            certain: those for the dataset and the label PNG.
            stem: the file name of what is written for this image, without its ending.
            reference: fields that say which image it is, added to each result and to the dataset.
        """
        assert self._lines is not None
        results = [{**result, **reference} for result in found.to_coco()]
        self._lines.write("".join(f"{json.dumps(result)}\n" for result in results))
        self._lines.flush()
        self._results += results
        if self._masks:
            self._write_labels(certain, stem)
        height, width = found.size
        name = _image_name(found, stem)
        self.written.add(self._out / "images" / name)
        _write_image(found, self._out / "images" / name)
        source = {f"source_{key}": value for key, value in reference.items()}
        self._images.append(
            {"id": found.image_id, "file_name": name, "height": height, "width": width} | source
        )
        self._annotations += dataset_annotations(certain, len(self._annotations) + 1)
        if found.panoptic is not None:
            self._write_panoptic(found.image_id, found.panoptic, _as_text(stem))

    def _write_panoptic(self, image_id: int, panoptic: PanopticMap, name: str) -> None:
        category_ids = [category.id for category in self._categories]
        result = evaluation.panoptic_result(image_id, panoptic, category_ids, name)
        self.written.add(self._out / "panoptic" / result["file_name"])
        evaluation.write_panoptic_png(result, self._out / "panoptic")
        self._panoptic.append({key: value for key, value in result.items() if key != "png"})

    def _write_labels(self, instances: Instances, stem: str) -> None:
        folder = self._out / "masks"
        folder.mkdir(exist_ok=True)
        labels = label_map(instances)
        for suffix in (".png", ".json"):
            self.written.add(folder / f"{stem}{suffix}")
        _write_encoded(folder / f"{stem}.png", labels)
        results = instances.to_coco()
        entries = [
            {"id": i, "name": name} | {k: r[k] for k in ("category_id", "score", "bbox")}
            for i, (name, r) in enumerate(zip(instances.names, results, strict=True), start=1)
        ]
        with atomic_write(folder / f"{stem}.json") as partial:
            partial.write_text(json.dumps(entries))

    def finish(self, inputs: Collection[pathlib.Path]) -> None:
        """Write the JSON files; remove what is incomplete or outdated.

        The command's `inputs` are kept, even if an earlier run wrote them.
        """
        dataset = {
            "images": sorted(self._images, key=lambda image: image["id"]),
            "annotations": self._annotations,
            "categories": [c._asdict() for c in self._categories[: self._num_things]],
        }
        results = sorted(self._results, key=lambda result: result["image_id"])
        for name, content in (("dataset.json", dataset), ("predictions.json", results)):
            with atomic_write(self._out / name) as partial:
                partial.write_text(json.dumps(content))
        if self._panoptic:
            self.written.add(self._out / "panoptic.json")
            evaluation.write_panoptic_json(
                sorted(self._panoptic, key=lambda result: result["image_id"]),
                self._categories,
                self._num_things,
                self._out / "panoptic.json",
                dataset["images"],
            )
        self._incomplete.unlink()
        self.written.remove_outdated(inputs)


def dataset_annotations(instances: Instances, first_id: int) -> list[dict[str, Any]]:
    """Return instances as COCO annotations that training accepts, each with its score.

    Boxes are the masks' own; instances without area, and those with the class and mask of a better
    one, are left out. Without masks, the box is the segmentation.
    """
    annotations: list[dict[str, Any]] = []
    seen = set()
    for result in _with_tight_boxes(instances):
        x, y, width, height = result["bbox"]
        segmentation = result.get("segmentation")
        if segmentation is None:
            x2, y2 = x + width, y + height
            segmentation, area = [[x, y, x2, y, x2, y2, x, y2]], width * height
        else:
            area = float(mask_api.area(segmentation))
        key = result["category_id"], json.dumps(segmentation)
        if min(width, height) <= 0 or key in seen:
            continue
        seen.add(key)
        added = {"segmentation": segmentation, "area": area, "iscrowd": 0}
        annotations.append({"id": first_id + len(annotations), **result, **added})
    return annotations


def _with_tight_boxes(instances: Instances) -> list[dict[str, Any]]:
    """Return COCO results whose boxes are those of the masks, where there are masks."""
    results = instances.to_coco()
    if instances.rles:
        boxes = mask_bounds(instances.rles).astype(float).tolist()
        for result, (x1, y1, x2, y2) in zip(results, boxes, strict=True):
            result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return results


def label_map(instances: Instances) -> np.ndarray:
    """Return an image (uint16 `[h, w]`) of 0 and the number, from 1, of the instance at each pixel.

    Where masks overlap, the better one is on top. Raises ValueError for a model without masks.
    """
    if instances.rles is None:
        raise ValueError("the model finds boxes without masks: leave out --masks")
    labels = np.zeros(instances.size, np.uint16)
    for i in reversed(range(min(len(instances), _MAX_LABEL))):
        labels[mask_api.decode(instances.rles[i]).astype(bool)] = i + 1
    return labels


def _image_name(instances: Instances, stem: str) -> str:
    """Return the name of an image in `images/`."""
    return _as_text(stem + (".jpg" if instances.file is None else instances.file.suffix))


def _as_text(name: str) -> str:
    """Return a file's name as text, as a dataset must have it."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def _write_image(instances: Instances, path: pathlib.Path) -> None:
    """Link an image's file at `path`, or write its pixels there."""
    if instances.file is None:
        _write_encoded(path, instances.image[..., ::-1])
        return
    # `..` after a link to a folder is the parent of the folder that the link names.
    target = instances.file.parent.resolve() / instances.file.name
    with atomic_write(path) as partial:
        try:
            partial.symlink_to(os.path.relpath(target, path.parent.resolve()))
        except OSError:  # a disk without links
            shutil.copyfile(target, partial)


def _write_encoded(path: pathlib.Path, image: np.ndarray) -> None:
    """Write an image, BGR or one channel, in the format of the path's ending."""
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(image))
    with atomic_write(path) as partial:
        partial.write_bytes(encoded.tobytes())
