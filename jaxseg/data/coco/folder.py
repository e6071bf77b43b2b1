"""COCO-format data: a folder with images and one JSON of annotations for each split.

Three layouts are read:

    annotations/instances_<split>.json  and  <split>/                  COCO's own
    <split>.json                        and  images/
    lvis_v1_<split>.json, there or in annotations/, and COCO's image folders      LVIS

The JSON is read and checked once, when a split is opened, and goes; arrays stay. Images are read
when asked for. Masks are given as polygons, compressed RLE or uncompressed RLE.
"""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.file import CocoFile, check_file, parse
from jaxseg.data.images import read_image
from jaxseg.data.issues import Issue, check_kinds, count_kinds, raise_if_any
from jaxseg.data.ragged import offsets
from jaxseg.data.shared_arrays import SharedArrays
from jaxseg.data.source import RLE, Category, Example

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """A COCO-format folder. `train` and `val` name the splits that stand for those roles."""

    path: str
    train: str = "train"
    val: str = "val"
    ignore_issues: tuple[str, ...] = ()
    """Kinds of defects (`jaxseg.data.issues`) whose images or annotations are left out."""
    ignore_image_ids: tuple[int, ...] = ()
    """Ids of images to leave out, such as those whose files cannot be read."""

    def open(self, split: str) -> "CocoSource":
        """The split of a role (`train`, `val`) or of a name of its own.

        ValueError if it has defects that training would suffer from and that are not dropped.
        """
        name = {"train": self.train, "val": self.val}.get(split, split)
        check_kinds(self.ignore_issues)
        place = find_split(pathlib.Path(self.path).expanduser(), name)
        content = check_file(place.annotations, place.images)
        raise_if_any(content.issues, self.ignore_issues)
        unknown = sorted(set(self.ignore_image_ids) - set(content.images.ids.tolist()))
        if unknown:
            raise ValueError(
                f"{content.path} has no image id {unknown[0]}, which drop_images names"
            )
        source = CocoSource(content, place.images, self.ignore_issues, self.ignore_image_ids)
        if not len(source):
            raise ValueError(
                f"{source.path}: no image is left without what drop={self.ignore_issues} names"
            )
        source.log_losses(content, self.ignore_issues)
        return source


class Split(NamedTuple):
    """Where a split is."""

    name: str
    annotations: pathlib.Path
    images: pathlib.Path


def list_splits(folder: pathlib.Path) -> list[Split]:
    """The splits of a folder, by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder {folder}")
    if (folder / "dataset_info.json").is_file():
        raise ValueError(
            f"{folder} is a TFDS set: give the experiment source=TfdsFolder({str(folder)!r})"
        )
    own = folder / "annotations"
    lvis = [*folder.glob("lvis_v1_*.json"), *own.glob("lvis_v1_*.json")]
    splits = [Split(path.stem, path, folder) for path in lvis]
    plain = [path for path in folder.glob("*.json") if path not in lvis]
    splits += [Split(path.stem, path, folder / "images") for path in plain]
    for path in own.glob("instances_*.json"):
        name = path.stem.removeprefix("instances_")
        splits.append(Split(name, path, folder / name))
    return sorted(splits)


def find_split(folder: pathlib.Path, name: str) -> Split:
    """The split of that name, or else the only one of that name and a year, or of LVIS.

    Raises FileNotFoundError with a list of what is there, or ValueError if there are several.
    """
    splits = list_splits(folder)
    exact = [split for split in splits if split.name == name]
    found = exact or [split for split in splits if role_of(split.name) == name]
    if len(found) > 1:
        names = ", ".join(f"{split.name!r} ({split.annotations.name})" for split in found)
        raise ValueError(
            f"{folder} has several splits for {name!r}: {names}; say which, "
            f"as in CocoFolder(path, train={found[0].name!r}), or remove the others"
        )
    if not found:
        names = ", ".join(split.name for split in splits) or "none"
        raise FileNotFoundError(
            f"{folder} has no split {name!r} (found: {names}); it needs {name}.json and images/, "
            f"annotations/instances_{name}.json and {name}/, or lvis_v1_{name}.json"
        )
    return found[0]


def role_of(name: str) -> str:
    """The role that a split's name tells: `train` of `train2017` and `lvis_v1_train`."""
    year = name[-4:]
    return name[:-4] if year.isdecimal() and year[:2] == "20" else name.removeprefix("lvis_v1_")


class CocoSource:
    """A checked split of a COCO-format folder, as a `Source`."""

    def __init__(
        self,
        content: CocoFile,
        image_folder: pathlib.Path,
        ignore_issues: Collection[str] = (),
        ignore_image_ids: Sequence[int] = (),
    ):
        self.path, self.image_folder = content.path, image_folder
        self._state = _file_state(self.path)
        self.categories: Sequence[Category] = content.categories
        images, annotations = content.images, content.annotations
        no_image = content.image_table.rows_of(ignore_issues) | np.isin(
            images.ids, ignore_image_ids
        )
        gone = content.annotation_table.rows_of(ignore_issues)
        gone |= (annotations.images < 0) | (annotations.labels < 0)
        gone[~gone] = no_image[annotations.images[~gone]]
        # What ground truth has and training has not.
        flat = content.annotation_table.rows_of({"box-zero"}) & ~gone
        self._gone = np.flatnonzero(no_image), np.flatnonzero(gone)

        kept = np.flatnonzero(~no_image)
        self.image_ids = images.ids[kept].tolist()
        self.image_sizes = images.sizes[kept].astype(np.int32)
        names = [images.names[row].encode("utf-8", "surrogatepass") for row in kept.tolist()]
        rows = np.flatnonzero(~gone & ~flat)
        rows = rows[np.argsort(annotations.images[rows], kind="stable")]
        of_image = np.bincount(annotations.images[rows], minlength=len(no_image))[kept]
        objects = rows[~annotations.crowd[rows]]
        counts = np.bincount(annotations.images[objects], minlength=len(no_image))
        self.object_counts: np.ndarray | None = counts[kept]
        self._arrays = SharedArrays(
            {
                "names": np.frombuffer(b"".join(names), np.uint8),
                "name_ends": offsets(np.asarray([len(name) for name in names], np.int64)),
                "rows": rows,
                "row_ends": offsets(of_image),
                "boxes": annotations.boxes,
                "labels": annotations.labels.astype(np.int32),
                "iscrowd": annotations.crowd,
                **annotations.masks._asdict(),
            }
        )

    def log_losses(self, content: CocoFile, ignore_issues: Collection[str]) -> None:
        """Warns of what training does not see of a file."""
        counts = count_kinds(d for d in content.issues if d.kind in {*ignore_issues, "box-zero"})
        flat = counts.pop("box-zero", 0)
        if flat:
            _LOG.warning("%s: %d annotations have boxes without area: left out", self.path, flat)
        if counts:
            _LOG.warning(
                "%s: %d images and %d annotations are left out, for these defects: %s",
                self.path,
                *map(len, self._gone),
                ", ".join(f"{count} {kind}" for kind, count in counts.items()),
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        height, width = self.image_sizes[index].tolist()
        image_id = self.image_ids[index]
        try:
            image = read_image(self.image_path(index), (height, width))
        except ValueError as error:
            raise type(error)(f"{error} (image id {image_id} of {self.path})") from error
        ends = self._arrays["row_ends"]
        rows = self._arrays["rows"][ends[index] : ends[index + 1]]
        return Example(
            image=image,
            image_id=image_id,
            boxes=self._arrays["boxes"][rows],
            labels=self._arrays["labels"][rows],
            rles=[self._rle(row, height, width) for row in rows.tolist()],
            iscrowd=self._arrays["iscrowd"][rows],
        )

    def image_path(self, index: int) -> pathlib.Path:
        ends = self._arrays["name_ends"]
        name = self._arrays["names"][ends[index] : ends[index + 1]].tobytes()
        return self.image_folder / name.decode("utf-8", "surrogatepass")

    def _rle(self, row: int, height: int, width: int) -> RLE:
        arrays = self._arrays
        start, end = arrays["rles"][row : row + 2].tolist()
        if end > start:
            return {"size": [height, width], "counts": arrays["text"][start:end].tobytes()}
        first, last = arrays["polygons"][row : row + 2].tolist()
        ends = arrays["points"][first : last + 1].tolist()
        parts = [arrays["coordinates"][a:b] for a, b in itertools.pairwise(ends)]
        return to_rle(parts, height, width)

    def ground_truth(self) -> dict[str, Any]:
        """The file's content, read anew, with `iscrowd` and `area` added to annotations that lack
        them. Without what was dropped; with boxes without area, which COCO evaluates."""
        content = parse(self.path)
        if isinstance(content, Issue) or _file_state(self.path) != self._state:
            raise ValueError(f"{self.path} was changed since it was opened: open it again")
        no_image, no_annotation = (set(rows.tolist()) for rows in self._gone)
        images = [e for row, e in enumerate(content["images"]) if row not in no_image]
        size_of = dict(zip(self.image_ids, self.image_sizes.tolist(), strict=True))
        complete = []
        for row, annotation in enumerate(content["annotations"]):
            if row in no_annotation:
                continue
            missing: dict[str, Any] = {} if "iscrowd" in annotation else {"iscrowd": 0}
            if "area" not in annotation:
                rle = to_rle(annotation["segmentation"], *size_of[annotation["image_id"]])
                missing["area"] = float(mask_api.area(rle))
            complete.append({**annotation, **missing})
        return {**content, "images": images, "annotations": complete}


def _file_state(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """Polygons, uncompressed or compressed RLE as compressed RLE with `bytes` counts."""
    if isinstance(segmentation, list):
        return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_api.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    return {"size": [height, width], "counts": counts}
