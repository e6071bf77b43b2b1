"""The readers of all formats, the detection of a format, and the splits of what was read."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxseg.data.coco.layout import ROLES, role_of
from jaxseg.data.coco.split import choose_val
from jaxseg.data.importers import coco, labelme, mask_folder, via, yolo
from jaxseg.data.importers.files import SourceFiles
from jaxseg.data.importers.values import NO_SPLIT, ImportedData, ImportedImage, Options
from jaxseg.data.source import Category, check_category_names


class Reader(NamedTuple):
    """One format."""

    name: str
    detect: Callable[[pathlib.Path], bool]
    read: Callable[[SourceFiles], ImportedData]
    takes_images: bool = False
    takes_class_attribute: bool = False


READERS = (
    Reader("coco", coco.detect, coco.read, takes_images=True),
    Reader("yolo", yolo.detect, yolo.read),
    Reader("labelme", labelme.detect, labelme.read, takes_images=True),
    Reader("via", via.detect, via.read, takes_images=True, takes_class_attribute=True),
    Reader("masks", mask_folder.detect, mask_folder.read),
)


def find_reader(source: pathlib.Path, name: str | None = None) -> Reader:
    """Return the reader of a format, detected if no name is given.

    Raises FileNotFoundError without a source, and ValueError if no format fits it or several do.
    """
    if not source.exists():
        raise FileNotFoundError(f"no file or folder {source}")
    names = ", ".join(reader.name for reader in READERS)
    if name is not None:
        named = [reader for reader in READERS if reader.name == name]
        if not named:
            raise ValueError(f"--format {name} is unknown; use one of {names}")
        return named[0]
    found = [reader for reader in READERS if reader.detect(source)]
    if len(found) > 1:
        several = ", ".join(reader.name for reader in found)
        raise ValueError(f"{source} fits several formats: {several}; choose one by --format NAME")
    if not found:
        raise ValueError(
            f"{source} fits none of the formats {names} (docs/own_data.md shows their files); give "
            "the folder that holds the annotations, or the format by --format NAME"
        )
    return found[0]


def read_dataset(source: pathlib.Path, reader: Reader, options: Options) -> ImportedData:
    """Read a source and divide it into splits, where it has none.

    Raises ValueError if an option does not fit the format, if a file is broken, or if no image is
    left.
    """
    if options.images is not None and not reader.takes_images:
        raise ValueError(f"--images does not fit the format {reader.name}, which names its images")
    if options.class_attribute is not None and not reader.takes_class_attribute:
        raise ValueError(f"--class-attribute is for the format via; this is {reader.name}")
    if not 0 <= options.val_fraction < 1:
        raise ValueError(f"--val-fraction {options.val_fraction:g} must be from 0 to below 1")
    data = reader.read(SourceFiles(source, options))
    splits = {name: images for name, images in data.splits.items() if images}
    if not splits:
        reasons = "; ".join(data.skipped.lines()) or "there are none"
        raise ValueError(f"{source} has no image that can be imported as {reader.name}: {reasons}")
    if not any(image.objects for images in splits.values() for image in images):
        reasons = "; ".join(data.skipped.lines()) or "there are none"
        raise ValueError(f"{source} has no object with a mask: {reasons}")
    check_category_names(Category(i, name) for i, name in enumerate(data.categories, 1))
    divided, note = _divide(_shorten_names(splits), options)
    return data._replace(splits=divided, split_note=note)


def _shorten_names(splits: dict[str, list[ImportedImage]]) -> dict[str, list[ImportedImage]]:
    """Remove `images/` from all names if all begin with it: the new folder has the same name."""
    if not all(image.name.startswith("images/") for own in splits.values() for image in own):
        return splits
    return {
        split: [image._replace(name=image.name.removeprefix("images/")) for image in images]
        for split, images in splits.items()
    }


def _divide(
    splits: dict[str, list[ImportedImage]], options: Options
) -> tuple[dict[str, list[ImportedImage]], str]:
    """Name the splits by their roles; divide images without splits by folder, or by the seed.

    Returns the splits, and how the images were divided ("" if the source has splits).
    """
    if len(splits) == 1 and role_of(next(iter(splits))) not in ROLES:
        (images,) = splits.values()
        splits = {}
        for image in images:
            folder = image.name.partition("/")[0]
            splits.setdefault(folder if role_of(folder) in ROLES else NO_SPLIT, []).append(image)
        if NO_SPLIT in splits:
            divided, note = _divide_by_seed(images, options)
            mixed = sorted(splits.keys() - {NO_SPLIT})
            if mixed:
                note += f" (the folders {', '.join(mixed)} too, since other images are beside them)"
            return divided, note
        note = "splits: the folders of the images"
    else:
        note = ""
    named = {role_of(name): images for name, images in splits.items()}
    return (named if len(named) == len(splits) else splits), note


def _divide_by_seed(
    images: list[ImportedImage], options: Options
) -> tuple[dict[str, list[ImportedImage]], str]:
    fraction, seed = options.val_fraction, options.seed
    if fraction == 0:
        return {"train": images}, "no splits in the source: all images are for training"
    try:
        chosen = choose_val([image.name for image in images], fraction, seed)
    except ValueError as error:
        raise ValueError(f"{error}; --val-fraction 0 makes all images the split train") from error
    splits = {
        "train": [image for image in images if image.name not in chosen],
        "val": [image for image in images if image.name in chosen],
    }
    return splits, f"no splits in the source: divided by seed {seed}, val_fraction {fraction:g}"
