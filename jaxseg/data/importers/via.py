"""VGG Image Annotator: the JSON of its versions 1, 2 and 3, projects and exported annotations.

https://www.robots.ox.ac.uk/~vgg/software/via/ writes it.
"""

import collections
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxseg.data.importers.files import SourceFiles, heads, read_json
from jaxseg.data.importers.objects import check_polygons, ellipse, rectangle
from jaxseg.data.importers.values import NO_SPLIT, ImportedData, ImportedImage, Object

_CLASS_NAMES = ("class", "type", "label", "name")
_ONE_CLASS = "object"
_VERSION_3 = re.compile(r'"project"\s*:\s*\{\s*"pid"')
_SHAPES_3 = {2: "rect", 3: "circle", 4: "ellipse", 7: "polygon", 8: "rect", 9: "circle"}
"""Shapes of version 3 that have an area (8 and 9 are drawn by points on the outline)."""
_OTHERS_3 = {1: "point", 5: "line", 6: "polyline"}


class _Region(NamedTuple):
    outline: Any  # points [n, 2]; None for a shape without an area
    shape: str
    attributes: dict[str, Any]
    where: str


class _File(NamedTuple):
    name: str
    json: pathlib.Path
    folder: str  # where the project says that images are
    regions: list[_Region]


def detect(source: pathlib.Path) -> bool:
    """Return whether one of the first JSON files of a source is VIA's."""
    return any(
        "_via_" in text or ('"regions"' in text and '"filename"' in text) or _VERSION_3.search(text)
        for text in heads(source)
    )


def read(files: SourceFiles) -> ImportedData:
    """Read the images of all JSON files; others than VIA's are counted as lost."""
    found: list[_File] = []
    for path in files.list_json():
        content = read_json(path)
        if isinstance(content.get("file"), dict) and isinstance(content.get("metadata"), dict):
            found += _read_version_3(files, path, content)
        elif _is_version_2(content):
            found += _read_version_2(files, path, content)
        else:
            files.skipped.add("JSON file without VIA's regions", files.name_of(path))
    attribute = _class_attribute(files, found)
    images: dict[pathlib.Path, ImportedImage] = {}
    for file in found:
        image = _make_image(files, file, attribute)
        if image is None:
            continue
        if image.path in images:
            # A folder often holds a project and the annotations exported from it.
            earlier = images[image.path]
            added = [item for item in image.objects if item not in earlier.objects]
            for _ in range(len(image.objects) - len(added)):
                files.skipped.add("region that another entry of the image has too", image.name)
            image = earlier._replace(objects=[*earlier.objects, *added])
        images[image.path] = image
    names = {item.category for image in images.values() for item in image.objects}
    return ImportedData({NO_SPLIT: list(images.values())}, sorted(names), files.skipped)


def _is_version_2(content: dict[str, Any]) -> bool:
    entries = content.get("_via_img_metadata", content)
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and "filename" in entry for entry in entries.values()
    )


def _read_version_2(
    files: SourceFiles, path: pathlib.Path, content: dict[str, Any]
) -> Iterator[_File]:
    """Yield the files of a project, or of exported annotations, of versions 1 and 2."""
    core = content.get("_via_settings", {})
    core = core.get("core", {}) if isinstance(core, dict) else {}
    folder = core.get("default_filepath", "") if isinstance(core, dict) else ""
    for entry in content.get("_via_img_metadata", content).values():
        name, regions = entry["filename"], entry.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(name, str) or not isinstance(regions, list):
            raise ValueError(
                f"{path}: the entry of {name!r} has no list of regions: export it again"
            )
        if entry.get("file_attributes"):
            files.skipped.add("attributes of an image", f"{files.name_of(path)}: {name}")
        yield _File(
            name,
            path,
            folder if isinstance(folder, str) else "",
            [
                _region_2(region, f"{files.name_of(path)}: {name}: regions[{i}]")
                for i, region in enumerate(regions)
            ],
        )


def _region_2(region: Any, where: str) -> _Region:
    region = region if isinstance(region, dict) else {}
    shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
    shape = shape if isinstance(shape, dict) else {}
    kind = str(shape.get("name"))
    numbers: dict[str, Sequence[str]] = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
    }
    outline: Any = None
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        outline = "not points"
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            outline = list(zip(xs, ys, strict=True))
    elif kind in numbers:
        values = [shape.get(name) for name in numbers[kind]]
        outline = _outline(kind, values, shape.get("theta", 0.0))
    return _Region(outline, kind, attributes if isinstance(attributes, dict) else {}, where)


def _outline(kind: str, values: Sequence[Any], angle: Any = 0.0) -> Any:
    """Return the points of a shape; anything else, which is counted later, if it has no numbers."""
    try:
        numbers = [float(value) for value in values]
        if kind == "rect":
            x, y, width, height = numbers[:4]
            return rectangle(x, y, x + width, y + height)
        if kind == "circle":
            x, y, radius = numbers[:3]
            return ellipse(x, y, radius, radius)
        if kind == "ellipse":
            x, y, radius_x, radius_y = numbers[:4]
            return ellipse(x, y, radius_x, radius_y, float(angle))
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    except (TypeError, ValueError, OverflowError):
        return "not points"


def _read_version_3(
    files: SourceFiles, path: pathlib.Path, content: dict[str, Any]
) -> Iterator[_File]:
    """Yield the files of a project of version 3."""
    attributes = content.get("attribute")
    attributes = attributes if isinstance(attributes, dict) else {}
    views = content.get("view")
    file_of = {
        vid: str(view["fid_list"][0])
        for vid, view in (views.items() if isinstance(views, dict) else ())
        if isinstance(view, dict) and isinstance(view.get("fid_list"), list) and view["fid_list"]
    }
    regions: dict[str, list[_Region]] = collections.defaultdict(list)
    for key, entry in content["metadata"].items():
        where = f"{files.name_of(path)}: metadata {key}"
        vid = str(entry.get("vid")) if isinstance(entry, dict) else ""
        if not isinstance(entry, dict) or file_of.get(vid) not in content["file"]:
            files.skipped.add("metadata of no image", where)
        elif not entry.get("xy"):
            files.skipped.add("metadata without a region", where)
        elif entry.get("z"):
            files.skipped.add("region of a video", where)
        else:
            regions[file_of[vid]].append(_region_3(entry, attributes, where))
    for fid, file in content["file"].items():
        name = file.get("src") or file.get("fname") if isinstance(file, dict) else None
        if not isinstance(name, str):
            raise ValueError(f"{path}: file {fid} has no fname: export it again")
        if name.startswith(("http://", "https://", "data:")):
            name = str(file.get("fname"))
        yield _File(name, path, "", regions[fid])


def _region_3(entry: dict[str, Any], attributes: dict[str, Any], where: str) -> _Region:
    xy = entry["xy"] if isinstance(entry["xy"], list) else [0]
    known = type(xy[0]) in (int, float) and xy[0] in _SHAPES_3
    shape = _SHAPES_3[xy[0]] if known else _OTHERS_3.get(xy[0] if type(xy[0]) is int else 0, "?")
    values = entry.get("av")
    named = {}
    for aid, value in (values if isinstance(values, dict) else {}).items():
        attribute = attributes.get(aid)
        attribute = attribute if isinstance(attribute, dict) else {}
        options = attribute.get("options")
        if isinstance(options, dict) and options and isinstance(value, str):
            # The value of a choice is its key; a checkbox has several, as in "0,2".
            keys = [value] if value in options else value.split(",")
            value = {options.get(key, key): True for key in keys if key}
        named[str(attribute.get("aname", aid))] = value
    return _Region(_outline(shape, xy[1:]) if known else None, shape, named, where)


def _class_attribute(files: SourceFiles, found: list[_File]) -> str | None:
    """Return the attribute that holds the class: the given, the only, or the one with such a name.

    None if no region has attributes. Raises ValueError if it is not clear.
    """
    names = {name for file in found for region in file.regions for name in region.attributes}
    given = files.options.class_attribute
    if given is not None:
        if given not in names:
            raise ValueError(
                f"{files.source}: no region has the attribute {given!r} of --class-attribute; "
                f"there are {', '.join(sorted(names)) or 'none'}"
            )
        return given
    likely = sorted(names) if len(names) == 1 else [n for n in names if n.lower() in _CLASS_NAMES]
    if not names:
        return None
    if len(likely) != 1:
        raise ValueError(
            f"{files.source}: the regions have the attributes {', '.join(sorted(names))}: choose "
            "the one with the class by --class-attribute NAME"
        )
    return likely[0]


def _make_image(files: SourceFiles, file: _File, attribute: str | None) -> ImportedImage | None:
    where, parent = f"{files.name_of(file.json)}: {file.name}", file.json.parent
    folders = [parent, parent / "images", files.root, files.root / "images"]
    if file.folder:
        folders.append(parent / file.folder.replace("\\", "/"))
    path = files.find_image(folders, file.name, where)
    if path is None:
        files.skipped.add("image that is missing", where)
        return None
    size = files.measure(path)
    if size is None:
        return None
    objects = [_make_object(files, region, attribute, size) for region in file.regions]
    kept = [item for item in objects if item is not None]
    return ImportedImage(files.name_of(path), path, size, kept)


def _make_object(
    files: SourceFiles, region: _Region, attribute: str | None, size: tuple[int, int]
) -> Object | None:
    if region.outline is None:
        files.skipped.add(f"shape {region.shape!r} without an area", region.where)
        return None
    category: Any = _ONE_CLASS if attribute is None else region.attributes.get(attribute)
    if isinstance(category, dict):  # a checkbox: the options that are set
        chosen = [name for name, value in category.items() if value]
        category = chosen[0] if len(chosen) == 1 else None
    if not isinstance(category, str) or not category.strip():
        files.skipped.add(f"region without one value of {attribute!r}, its class", region.where)
        return None
    if any(value for name, value in region.attributes.items() if name != attribute):
        files.skipped.add("attributes of a region besides the class", region.where)
    polygons = check_polygons(
        [region.outline], size, lambda reason: files.skipped.add(reason, region.where)
    )
    return Object(category.strip(), polygons) if polygons else None
