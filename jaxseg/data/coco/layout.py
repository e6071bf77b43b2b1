"""The layouts of COCO-format folders: the splits, with their annotation files and image folders."""

import logging
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from jaxseg.data.coco.split import Part

_LOG = logging.getLogger(__name__)
ROLES = ("train", "val", "test")
"""What splits are for (`role_of`)."""
_ALIASES = {"valid": "val", "validation": "val"}
_ROBOFLOW = "_annotations.coco.json"
_PANOPTIC = "panoptic_"
_PREDICTED_PANOPTIC = "panoptic.json"
"""What `jaxseg predict` names the panoptic annotations that it writes."""


class Split(NamedTuple):
    """The name and the files of a split."""

    name: str
    annotations: pathlib.Path
    images: tuple[pathlib.Path, ...]
    """Folders that may hold the images: the one with the most of them is read."""
    part: Part | None = None
    """The images of the file that belong to the split; None for all."""


def is_tfds(folder: pathlib.Path) -> bool:
    """Return whether a folder is a prepared TFDS dataset."""
    return (folder / "dataset_info.json").is_file()


def list_splits(path: pathlib.Path, images: pathlib.Path | None = None) -> list[Split]:
    """List the splits of a folder by name, or the only one of a COCO file.

    `images` is the folder of the images, where the layout does not say it.
    """
    if path.is_file():
        splits = [Split(path.stem, path, (path.parent / "images", path.parent))]
    elif path.is_dir():
        splits = _list_folder(path)
    else:
        raise FileNotFoundError(f"no data folder or file {path}: name the data, as by --data DIR")
    return sorted(_with_images(splits, images))


def list_panoptic_splits(path: pathlib.Path, images: pathlib.Path | None = None) -> list[Split]:
    """List the splits with panoptic annotations, as `list_splits` lists those with instances.

    The maps of `panoptic_<split>.json`, and of the `panoptic.json` that `jaxseg predict` writes,
    are in the folder of that name without `.json`.
    """
    folders = [path.parent] if path.is_file() else [path, path / "annotations"]
    files = [file for folder in folders for file in _panoptic_files(folder)]
    if path.is_file():
        files = [file for file in files if file == path]
    splits = []
    for file in files:
        name = file.stem.removeprefix(_PANOPTIC)
        root = file.parent.parent if file.parent.name == "annotations" else file.parent
        beside = root / name, root / "images" / name, root / "images"
        # Those of `panoptic.json` are not in `panoptic/`, which has the maps.
        splits.append(Split(name, file, tuple(f for f in beside if f != file.with_suffix(""))))
    return sorted(_with_images(splits, images))


def is_panoptic(path: pathlib.Path) -> bool:
    """Return whether a folder or file has panoptic annotations and no others."""
    if path.is_file():
        return path in _panoptic_files(path.parent)
    return not is_tfds(path) and bool(list_panoptic_splits(path)) and not (list_splits(path))


def _panoptic_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the panoptic annotations of a folder, which have a folder of maps beside them."""
    found = [*folder.glob(f"{_PANOPTIC}*.json"), *folder.glob(_PREDICTED_PANOPTIC)]
    return [path for path in found if path.with_suffix("").is_dir()]


def _with_images(splits: list[Split], images: pathlib.Path | None) -> list[Split]:
    """Return the splits with the folder of the images that the user names, if any."""
    if images is None:
        return splits
    root = images.expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no image folder {root}")
    return [split._replace(images=(root, root / split.name)) for split in splits]


def _list_folder(folder: pathlib.Path) -> list[Split]:
    if is_tfds(folder):
        raise ValueError(
            f"{folder} is a TFDS dataset: give the experiment source=TfdsFolder({str(folder)!r})"
        )
    own, images = folder / "annotations", folder / "images"
    lvis = [*folder.glob("lvis_v1_*.json"), *own.glob("lvis_v1_*.json")]
    splits = [Split(path.stem, path, (folder,)) for path in lvis]
    others = {*lvis, *_panoptic_files(folder)}
    plain = [path for path in folder.glob("*.json") if path not in others and not _is_results(path)]
    splits += [Split(path.stem, path, (images, folder)) for path in plain]
    for path in own.glob("instances_*.json"):
        name = path.stem.removeprefix("instances_")
        splits.append(Split(name, path, (folder / name, images / name, images)))
    for path in folder.glob(f"*/{_ROBOFLOW}"):
        splits.append(Split(path.parent.name, path, (path.parent,)))
    return splits


def _is_results(path: pathlib.Path) -> bool:
    """Return whether a JSON file is a list, as COCO results are, and is not named as a split."""
    if not path.is_file() or role_of(path.stem) in ROLES:
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def find_split(
    path: pathlib.Path, name: str, images: pathlib.Path | None = None, *, panoptic: bool = False
) -> Split:
    """Find the split of that name, or else the only one of that role (`role_of`).

    Raises FileNotFoundError with a list of the splits, or ValueError if several match.
    """
    return _find(path, name, (list_panoptic_splits if panoptic else list_splits)(path, images))


def choose_split(
    path: pathlib.Path,
    split: str,
    names: Mapping[str, str],
    *,
    images: pathlib.Path | None = None,
    val_fraction: float,
    seed: int,
    panoptic: bool = False,
) -> Split:
    """Find a split by its role or its name.

    If the folder has neither of the splits that `names` gives for the roles, a role is the folder's
    own split of that role, or a part of the only file. A split that is there is never combined with
    one that is not named: they could share images.

    Args:
        path: a folder or a COCO file.
        split: a key of `names`, or the name of a split.
        names: the names of the splits `train` and `val`.
        images: the folder of the images, where the layout does not say it.
        val_fraction: the fraction of the only file's images that become the split `val`.
        seed: chooses these images.
        panoptic: choose among the panoptic annotations.
    """
    splits = (list_panoptic_splits if panoptic else list_splits)(path, images)
    if split not in names:
        return _find(path, split, splits)
    if path.is_file() or (len(splits) == 1 and _has_no_role(splits[0], names)):
        return splits[0]._replace(name=split, part=Part(split, val_fraction, seed))
    name = names[split]
    if name == split or any(_matching(splits, other) for other in names.values()):
        return _find(path, name, splits)
    if _matching(splits, split):
        chosen = _find(path, split, splits)
        _LOG.warning(
            "%s has no split %r: using its split %r (%s) for %s; "
            "--data.source.%s NAME chooses another",
            *(path, name, chosen.name, chosen.annotations.name, split, split),
        )
        return chosen
    return _find(path, name, splits)


def _has_no_role(split: Split, names: Mapping[str, str]) -> bool:
    """Return whether a split is neither named by the config nor by its file for one role."""
    return role_of(split.name) not in ROLES and split.name not in names.values()


def _matching(splits: list[Split], name: str) -> list[Split]:
    exact = [split for split in splits if split.name == name]
    return exact or [split for split in splits if role_of(split.name) == name]


def _find(path: pathlib.Path, name: str, splits: list[Split]) -> Split:
    found = _matching(splits, name)
    if len(found) > 1:
        listed = ", ".join(f"{split.name!r} ({split.annotations.name})" for split in found)
        raise ValueError(
            f"{path} has several splits for {name!r}: {listed}; choose one, "
            f"as in CocoFolder(path, train={found[0].name!r}), or remove the others"
        )
    if not found:
        listed = ", ".join(split.name for split in splits) or "none"
        raise FileNotFoundError(
            f"{path} has no split {name!r} (found: {listed}); it needs {name}.json and images/, "
            f"annotations/instances_{name}.json and {name}/ or images/, {name}/{_ROBOFLOW}, "
            f"lvis_v1_{name}.json, or annotations/panoptic_{name}.json and annotations/"
            f"panoptic_{name}/. One file for all is split by a seed: give its path. Other formats: "
            "`jaxseg data import`"
        )
    return found[0]


def role_of(name: str) -> str:
    """Return the role of a split by its name: `train` for `train2017` and `lvis_v1_train`.

    The role of `valid` and `validation` is `val`. Capitals do not matter: CVAT writes `Train`.
    """
    year = name[-4:]
    is_year = year.isdecimal() and year[:2] == "20"
    role = (name[:-4] if is_year else name.removeprefix("lvis_v1_")).lower()
    return _ALIASES.get(role, role)
