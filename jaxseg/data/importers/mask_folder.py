"""A folder of images and of PNGs with their masks.

    images/a.png  and  masks/a.png              a label image: each value or colour is an object
    images/a.png  and  masks/CLASS/a.png        the same for each class
    images/a.png  and  masks/a/*.png            a PNG for each object, nonzero inside
    images/a.png  and  masks/a/CLASS/*.png      the same for each class (or masks/CLASS/a/*.png)
    ID/images/ID.png  and  ID/masks/*.png       the Data Science Bowl of 2018

Each may be in folders train, val and test. 0 and black are background.
"""

import collections
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from jaxseg.data.coco.layout import ROLES, role_of
from jaxseg.data.images import IMAGE_SUFFIXES, read_labels
from jaxseg.data.importers.files import SourceFiles
from jaxseg.data.importers.objects import encode_bitmap, encode_labels
from jaxseg.data.importers.values import NO_SPLIT, ImportedData, ImportedImage, Object

_ONE_CLASS = "object"
_MAX_OBJECTS = 65_535


class _Mask(NamedTuple):
    path: pathlib.Path
    category: str
    is_label_image: bool


class _Owner(NamedTuple):
    """An image that a mask may belong to, by its path."""

    key: str
    category: str
    is_label_image: bool


class _Masked(NamedTuple):
    """An image and the files of its masks."""

    image: pathlib.Path
    masks: list[_Mask]


def detect(source: pathlib.Path) -> bool:
    """Return whether a source has folders of images and masks."""
    return source.is_dir() and any(
        _is_pair(root) or next(_bowl_folders(root), None) is not None
        for root in (source, *_role_folders(source))
    )


def read(files: SourceFiles) -> ImportedData:
    """Read all images that have masks."""
    if files.source.is_file():
        raise ValueError(f"{files.source} is a file; give the folder of images/ and masks/")
    images = []
    for root in (files.source, *_role_folders(files.source)):
        masked = [*_pair(files, root), *_bowl(files, root)]
        images += [image for entry in masked if (image := _read_image(files, entry)) is not None]
    if not images:
        files.skipped.add("source without images that have masks", files.source)
    names = {item.category for image in images for item in image.objects}
    return ImportedData({NO_SPLIT: images}, sorted(names), files.skipped)


def _role_folders(source: pathlib.Path) -> list[pathlib.Path]:
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    return [path for path in folders if role_of(path.name) in ROLES]


def _is_pair(root: pathlib.Path) -> bool:
    return (root / "images").is_dir() and (root / "masks").is_dir()


def _bowl_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the folders of one image each, by name."""
    for path in sorted(root.iterdir()):
        if role_of(path.name) not in ROLES and path.is_dir() and _is_pair(path):
            yield path


def _bowl(files: SourceFiles, root: pathlib.Path) -> Iterator[_Masked]:
    for folder in _bowl_folders(root):
        images = list(files.list_files(folder / "images", IMAGE_SUFFIXES))
        if len(images) != 1:
            files.skipped.add("folder without exactly one image", files.name_of(folder))
            continue
        masks = []
        for path in files.list_files(folder / "masks", IMAGE_SUFFIXES):
            inside = path.parent != folder / "masks"
            masks.append(_Mask(path, path.parent.name if inside else _ONE_CLASS, False))
        yield _Masked(images[0], masks)


def _pair(files: SourceFiles, root: pathlib.Path) -> Iterator[_Masked]:
    """Yield the images of `root/images` that have masks in `root/masks`."""
    if not _is_pair(root):
        return
    images: dict[str, pathlib.Path] = {}
    for path in files.list_files(root / "images", IMAGE_SUFFIXES):
        key = path.relative_to(root / "images").with_suffix("").as_posix()
        if key in images:
            files.skipped.add("image with the name of another", files.name_of(path))
        else:
            images[key] = path
    owners = {
        path: _owners(path.relative_to(root / "masks"), images)
        for path in files.list_files(root / "masks", IMAGE_SUFFIXES)
    }
    _check_folders(root, owners)
    masks: dict[str, list[_Mask]] = collections.defaultdict(list)
    for path, found in owners.items():
        if found:
            masks[found[0].key].append(_Mask(path, found[0].category, found[0].is_label_image))
        else:
            files.skipped.add("mask of no image", files.name_of(path))
    for key, path in images.items():
        if key in masks or (root / "masks" / key).is_dir():
            yield _Masked(path, masks[key])
        else:
            files.skipped.add("image without a mask, left out", files.name_of(path))


def _owners(path: pathlib.PurePath, images: dict[str, pathlib.Path]) -> list[_Owner]:
    """Return the images that a mask may belong to, the most likely first."""
    without_class = pathlib.PurePath(*path.parts[1:])
    candidates = [
        (path.with_suffix(""), _ONE_CLASS, True),
        (path.parent, _ONE_CLASS, False),
        (path.parent.parent, path.parent.name, False),
    ]
    if len(path.parts) > 1:
        candidates += [
            (without_class.with_suffix(""), path.parts[0], True),
            (without_class.parent, path.parts[0], False),
        ]
    return [
        _Owner(key.as_posix(), category, is_label_image)
        for key, category, is_label_image in candidates
        if key.as_posix() in images
    ]


def _check_folders(root: pathlib.Path, owners: dict[pathlib.Path, list[_Owner]]) -> None:
    """Raise ValueError if folders seem to be those of classes, but have the names of images.

    Masks of numbered images in folders of numbered classes would all be given to the images of
    these numbers.
    """
    in_folders = {path: own for path, own in owners.items() if own and not own[0].is_label_image}
    # A mask that fits no image by its own name shows that the folders are those of images.
    if not in_folders or any(len(own) == 1 for own in in_folders.values()):
        return
    if len({own[1].key for own in in_folders.values()}) > len(
        {own[0].key for own in in_folders.values()}
    ):
        path, (first, second, *_) = next(iter(in_folders.items()))
        raise ValueError(
            f"{path} may be a mask of the image {first.key!r}, or of {second.key!r} and the class "
            f"{second.category!r}: rename the folders in {root / 'masks'}, so that none has the "
            "name of an image, if they are those of classes; else rename the masks"
        )


def _read_image(files: SourceFiles, entry: _Masked) -> ImportedImage | None:
    objects: list[Object] = []
    size = None
    read = [_read_mask(files, mask) for mask in entry.masks]
    if read and not any(read):  # it would be an image without objects
        files.skipped.add("image without a readable mask, left out", files.name_of(entry.image))
        return None
    for mask, found in zip(entry.masks, read, strict=True):
        if found is None:
            continue
        mask_size, own = found
        if size is None:
            size = files.measure(entry.image, mask_size)
            if size is None:
                return None
        if mask_size != size:
            files.skipped.add("mask of another size than the image", files.name_of(mask.path))
            continue
        objects += own
    size = size or files.measure(entry.image)
    if size is None:
        return None
    return ImportedImage(files.name_of(entry.image), entry.image, size, objects)


def _read_mask(files: SourceFiles, mask: _Mask) -> tuple[tuple[int, int], list[Object]] | None:
    """Return the size and the objects of a mask file; None, counted, if it cannot be read."""
    where = files.name_of(mask.path)
    try:
        labels = read_labels(mask.path)
    except (ValueError, OSError) as error:
        files.skipped.add("mask that cannot be read", error)
        return None
    size = labels.shape[0], labels.shape[1]
    objects: list[Object] = []
    if not mask.is_label_image:
        if not labels.any():
            files.skipped.add("mask without any pixel", where)
            return size, []
        return size, [Object(mask.category, encode_bitmap(labels != 0))]
    for _, rle in encode_labels(labels):
        if len(objects) == _MAX_OBJECTS:
            raise ValueError(
                f"{mask.path} has more than {_MAX_OBJECTS} values: it is no label image"
            )
        objects.append(Object(mask.category, rle))
    if len(objects) == 1:
        files.skipped.add(
            "label image with one value: read as one object, even if it shows more", where
        )
    return size, objects
