"""YOLO segmentation: `data.yaml`, images, and a text file of polygons for each image.

A line is a class index and the points of one polygon, relative to the image's width and height. A
line of five numbers is a box. Ultralytics' documentation describes the format:
https://docs.ultralytics.com/datasets/segment/
"""

import os
import pathlib
from typing import Any

import numpy as np
import yaml

from jaxseg.data.images import IMAGE_SUFFIXES
from jaxseg.data.importers.files import SourceFiles, head, read_text
from jaxseg.data.importers.objects import check_polygons
from jaxseg.data.importers.values import ImportedData, ImportedImage, Object

_SPLITS = ("train", "val", "test")
_MAX_YAML_BYTES = 1 << 20


def detect(source: pathlib.Path) -> bool:
    """Return whether a source has a YAML file with class names."""
    return _yaml_file(source) is not None


def _yaml_file(source: pathlib.Path) -> pathlib.Path | None:
    """Return the dataset's YAML file: `data.yaml`, or else the first with names and splits."""
    if source.is_file():
        return source if source.suffix.lower() in (".yaml", ".yml") else None
    found = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
    found.sort(key=lambda path: path.stem != "data")
    return next((path for path in found if "names:" in head(path)), None)


def read(files: SourceFiles) -> ImportedData:
    """Read all splits of `data.yaml`."""
    path = _yaml_file(files.source)
    if path is None:
        raise FileNotFoundError(f"{files.source} has no data.yaml with `names`")
    config = _read_yaml(path)
    names = _class_names(path, config.get("names"))
    if config.get("kpt_shape"):  # such a line of an even count of numbers would look like a polygon
        raise ValueError(
            f"{path} has `kpt_shape`: its labels are boxes with keypoints, not masks; export "
            "segmentation labels"
        )
    base = _base_folder(files, path, config.get("path"))
    splits: dict[str, list[ImportedImage]] = {}
    for split in _SPLITS:
        value = config.get(split)
        if value in (None, "", []):
            continue
        paths: dict[pathlib.Path, None] = {}
        for entry in value if isinstance(value, list) else [value]:
            for image in _image_paths(files, path, base, split, entry):
                if image in paths:
                    files.skipped.add(f"image that {split} lists again", files.name_of(image))
                paths[image] = None
        images = [_read_image(files, image, names) for image in paths]
        splits[split] = [image for image in images if image is not None]
    if not splits:
        raise ValueError(f"{path} names no images: it needs train and val")
    return ImportedData(splits, list(names.values()), files.skipped)


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    text = read_text(path, _MAX_YAML_BYTES)
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} does not hold a YAML mapping with names, train and val")
    return config


def _class_names(path: pathlib.Path, names: Any) -> dict[int, str]:
    """Return the class names by index, from a list or a mapping."""
    if not isinstance(names, dict | list) or not names:
        raise ValueError(f"{path}: `names` must be a list of class names, or a mapping of indices")
    items = names.items() if isinstance(names, dict) else enumerate(names)
    found: dict[int, str] = {}
    for index, name in items:
        valid = type(name) in (str, int, float, bool) and str(index).isdecimal()
        if not valid or str(name) in found.values():
            raise ValueError(f"{path}: `names` has {index!r}: {name!r}, no name or one given twice")
        found[int(index)] = str(name)
    return dict(sorted(found.items()))


def _base_folder(files: SourceFiles, path: pathlib.Path, given: Any) -> pathlib.Path:
    """Return the folder that the paths are relative to: `path`, if it is there, or the file's own.

    Exports often keep the `path` of the machine that they were made on.
    """
    if not isinstance(given, str) or given in ("", "."):
        return path.parent
    base = pathlib.Path(os.path.abspath(path.parent / given))
    return base if files.is_allowed(base) and base.is_dir() else path.parent


def _image_paths(
    files: SourceFiles, path: pathlib.Path, base: pathlib.Path, split: str, entry: Any
) -> list[pathlib.Path]:
    """Return the images of a folder, or of a text file that lists them."""
    if not isinstance(entry, str):
        raise ValueError(f"{path}: {split} has {entry!r}, which is neither a folder nor a file")
    # Roboflow writes ../train/images for the folder train beside data.yaml.
    shortened = entry
    while not (base / shortened).exists() and shortened.startswith("../"):
        shortened = shortened.removeprefix("../")
    chosen = shortened if (base / shortened).exists() else entry
    target = files.resolve(base, chosen, f"{path.name}: {split}: {entry}")
    if target is None:
        return []
    if target.is_dir():
        return list(files.list_files(target, IMAGE_SUFFIXES))
    if target.suffix.lower() != ".txt" or not target.is_file():
        raise FileNotFoundError(f"{path}: {split}: there is no folder or list of images {target}")
    found = []
    for number, line in enumerate(read_text(target).splitlines(), 1):
        name = line.strip()
        where = f"{files.name_of(target)} line {number}"
        if not name:
            continue
        # Names are relative to the list if they begin with "./", else to the dataset's folder.
        image = files.resolve(target.parent if name.startswith("./") else base, name, where)
        if image is not None:
            found.append(image)
    return found


def label_path(image: pathlib.Path) -> pathlib.Path:
    """Return the text file of an image: in `labels/` instead of the last `images/`."""
    parts = list(image.with_suffix(".txt").parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return pathlib.Path(*parts)


def _read_image(
    files: SourceFiles, path: pathlib.Path, names: dict[int, str]
) -> ImportedImage | None:
    if not path.is_file():
        files.skipped.add("image that is missing", files.name_of(path))
        return None
    size = files.measure(path)
    if size is None:
        return None
    objects, labels = [], label_path(path)
    if labels.is_file():
        for number, line in enumerate(read_text(labels).splitlines(), 1):
            item = _read_line(
                files, line, f"{files.name_of(labels)} line {number}", labels, names, size
            )
            objects += [] if item is None else [item]
    else:
        files.skipped.add(
            "label file that is missing: image kept without objects", files.name_of(path)
        )
    return ImportedImage(files.name_of(path), path, size, objects)


def _read_line(
    files: SourceFiles,
    line: str,
    where: str,
    labels: pathlib.Path,
    names: dict[int, str],
    size: tuple[int, int],
) -> Object | None:
    """Return the object of a line; None if there is none, counted unless the line is empty."""
    if not line.strip():
        return None
    try:
        index, *numbers = map(float, line.split())
    except ValueError:
        files.skipped.add("line that is not numbers", where)
        return None
    if index not in names:
        raise ValueError(
            f"{labels}: {where}: class {line.split()[0]} is not in `names` of the YAML file "
            f"({', '.join(map(str, names))}): correct one of them"
        )
    if len(numbers) == 4:
        files.skipped.add("box without a mask (line of 5 numbers)", where)
        return None
    if len(numbers) % 2 or len(numbers) < 6:
        files.skipped.add("line that is no polygon of three points or more", where)
        return None
    points = np.asarray(numbers).reshape(-1, 2) * size[::-1]
    polygons = check_polygons([points], size, lambda reason: files.skipped.add(reason, where))
    return Object(names[int(index)], polygons) if polygons else None
