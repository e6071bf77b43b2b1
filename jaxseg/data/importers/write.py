"""Write imported images and objects as a COCO-format folder."""

import collections
import json
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from pycocotools import mask as mask_api

from jaxseg.data.coco.segmentations import to_rle
from jaxseg.data.importers.values import ImportedData, ImportedImage, Object, Skipped
from jaxseg.data.source import is_unicode
from jaxseg.files import open_regular, prepare_output_folder


class SplitCounts(NamedTuple):
    """The numbers of what was written for a split."""

    images: int
    objects: int
    crowds: int
    classes: dict[str, int]  # objects by name


def check_output(folder: pathlib.Path) -> None:
    """Raise OSError or ValueError unless a folder can be written and is empty."""
    prepare_output_folder(folder)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another --out, or empty it")


def write_dataset(data: ImportedData, folder: pathlib.Path) -> dict[str, SplitCounts]:
    """Write `<split>.json` for each split, and `images/`; return the counts of each split.

    The folder must be absent or empty, and is filled at the end, the JSON files last. Objects whose
    mask has no pixel are counted as skipped. Raises OSError if an image cannot be copied.
    """
    check_output(folder)
    # Inside, since a mount point, a link and the current folder cannot be replaced.
    partial = folder / f".{uuid.uuid4().hex}.partial"
    try:
        (partial / "images").mkdir(parents=True)
        copied = _Copied({}, set())
        first_ids, counts = (1, 1), {}
        for split, images in data.splits.items():
            content, first_ids = _split_json(data, images, partial / "images", copied, first_ids)
            (partial / f"{split}.json").write_text(json.dumps(content))
            counts[split] = _count(content)
        for path in (partial / "images", *(partial / f"{split}.json" for split in data.splits)):
            path.rename(folder / path.name)
        return counts
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _count(content: dict[str, Any]) -> SplitCounts:
    objects = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    labels = collections.Counter(entry["category_id"] for entry in objects)
    classes = {entry["name"]: labels[entry["id"]] for entry in content["categories"]}
    crowds = len(content["annotations"]) - len(objects)
    return SplitCounts(len(content["images"]), len(objects), crowds, classes)


class _Copied(NamedTuple):
    """The images that are copied: splits may share some."""

    names: dict[pathlib.Path, str]  # the new name of each file
    used: set[str]  # in lower case


def _split_json(
    data: ImportedData,
    images: list[ImportedImage],
    folder: pathlib.Path,
    copied: _Copied,
    first_ids: tuple[int, int],
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Copy the images of a split; return its COCO JSON and the next ids of image and annotation.

    Ids go on from split to split, so that no two images of a dataset share one.
    """
    category_ids = {name: i for i, name in enumerate(data.categories, 1)}
    image_id, annotation_id = first_ids
    entries, annotations = [], []
    for image in sorted(images, key=lambda image: image.name):
        name = copied.names.get(image.path)
        if name is None:
            name = _unique_name(image.name, copied.used)
            _copy(image, folder / name)
            copied.names[image.path] = name
        height, width = image.size
        entries.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in _annotations(image, category_ids, data.skipped):
            annotations.append({"id": annotation_id, "image_id": image_id, **annotation})
            annotation_id += 1
        image_id += 1
    categories = [{"id": i, "name": name} for name, i in category_ids.items()]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    return content, (image_id, annotation_id)


def _unique_name(name: str, used: set[str]) -> str:
    """Return a name inside the image folder that no other image has, and add it to `used`."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    path = pathlib.PurePosixPath(*parts)
    if not is_unicode(name):
        path = pathlib.PurePosixPath(name.encode("utf-8", "replace").decode())
    candidate, number = path, 2
    # Folders that ignore case would merge names that differ in case alone.
    while candidate.as_posix().lower() in used:
        candidate, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    used.add(candidate.as_posix().lower())
    return candidate.as_posix()


def _copy(image: ImportedImage, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "xb") as file:
        if image.read_embedded is not None:
            file.write(image.read_embedded())
            return
        with open_regular(image.path) as source:
            shutil.copyfileobj(source, file)


def _annotations(
    image: ImportedImage, category_ids: dict[str, int], skipped: Skipped
) -> Iterator[dict[str, Any]]:
    """Yield the annotations of an image; objects whose masks are empty are lost."""
    for number, item in enumerate(image.objects):
        rle = to_rle(item.segmentation, *image.size)
        area = int(mask_api.area(rle))
        if area == 0:
            skipped.add("object whose mask has no pixel", f"{image.name}: object {number}")
            continue
        yield {
            "category_id": category_ids[item.category],
            "bbox": [float(value) for value in mask_api.toBbox(rle)],
            "area": area,
            "iscrowd": int(item.iscrowd),
            "segmentation": _segmentation_json(item),
        }


def _segmentation_json(item: Object) -> Any:
    mask = item.segmentation
    if isinstance(mask, list):
        return mask
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
