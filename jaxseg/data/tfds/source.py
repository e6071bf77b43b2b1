"""TFDS sets with instance masks as sources: sets of our own builder, and `coco/2017_panoptic`."""

import dataclasses
import io
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data.coco.folder import role_of, to_rle
from jaxseg.data.images import decode_image
from jaxseg.data.source import Category, Example
from jaxseg.data.tfds.index import read_index, write_index
from jaxseg.data.tfds.panoptic import Panoptic
from jaxseg.data.tfds.records import Instances, Numbered

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TfdsFolder:
    """A prepared TFDS set: the folder with its `dataset_info.json`.

    `train` and `val` name the splits that stand for those roles. Without such a split,
    `train` is also the only one named like `train2017` or `lvis_v1_train`, and `val` likewise
    or `validation`.
    """

    path: str
    train: str = "train"
    val: str = "val"

    def open(self, split: str) -> "TfdsSource":
        """The split of a role (`train`, `val`) or of a name of its own."""
        name = {"train": self.train, "val": self.val}.get(split, split)
        return TfdsSource(pathlib.Path(self.path).expanduser(), name)


class TfdsSource:
    """A split of a TFDS set, as a `Source`. Records are read through `as_data_source`."""

    def __init__(self, path: pathlib.Path, split: str):
        builder = _open_set(path)
        self.path, self.split = path, _find_split(builder, path, split)
        self._format = _format_of(builder, path, self.split)
        self.categories: Sequence[Category] = self._format.categories
        self._label = {c.id: label for label, c in enumerate(self.categories)}
        self._records: Any = _records(builder, self.split)
        index = read_index(path, self.split, len(self._records))
        if index is None:
            index = self._make_index()
        self.image_ids = index[:, 0].tolist()
        self.image_sizes = index[:, 1:].astype(np.int32)
        self.object_counts: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files: each process opens its own."""
        return {**self.__dict__, "_records": None}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Example:
        record = self._record(index)
        entry = self._format.entry(record)
        height, width = entry["height"], entry["width"]
        name = entry.get("file_name", "image")
        where = f"{self.path}, split {self.split}: {name} (image id {entry['id']})"
        image = decode_image(io.BytesIO(record["image"]), where, (height, width))
        annotations = [a for _, a in self._annotations(record)]
        boxes = np.asarray([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        annotations = [annotations[i] for i in np.flatnonzero(has_area)]
        return Example(
            image=image,
            image_id=entry["id"],
            boxes=boxes[has_area],
            labels=np.asarray([self._label[a["category_id"]] for a in annotations], np.int32),
            rles=[to_rle(a["segmentation"], height, width) for a in annotations],
            iscrowd=np.asarray([bool(a["iscrowd"]) for a in annotations], bool),
        )

    def ground_truth(self) -> dict[str, Any]:
        """The split as COCO JSON: for a set built from a folder, what the folder's file says."""
        images, annotations = [], []
        for index in range(len(self)):
            record = self._record(index)
            images.append(self._format.entry(record))
            annotations += self._annotations(record)
        annotations.sort(key=lambda numbered: numbered[0])
        return {**self._format.head, "images": images, "annotations": [a for _, a in annotations]}

    def _annotations(self, record: Mapping[str, Any]) -> list[Numbered]:
        try:
            return self._format.annotations(record)
        except ValueError as error:
            raise ValueError(f"{self.path}, split {self.split}: {error}") from error

    def _record(self, index: int) -> Any:
        if self._records is None:
            self._records = _records(_open_set(self.path), self.split)
        if not -len(self._records) <= index < len(self._records):
            raise IndexError(index)
        place = index % len(self._records)
        try:
            return self._records[place]
        except Exception as error:  # ArrayRecord's and TFDS's own are of many types
            raise ValueError(
                f"{self.path}, split {self.split}: record {place} cannot be read, the set is "
                f"damaged: {error}"
            ) from error

    def _make_index(self) -> np.ndarray:
        """Ids and sizes out of the records themselves, kept beside the set if that can be."""
        import tqdm

        count = len(self._records)
        ids, sizes = [], []
        for place in tqdm.trange(count, desc="reading image sizes, once", delay=2, leave=False):
            entry = self._format.entry(self._record(place))
            ids.append(entry["id"])
            sizes.append((entry["height"], entry["width"]))
        try:
            return write_index(self.path, self.split, ids, np.asarray(sizes).reshape(-1, 2))
        except OSError as error:
            _LOG.warning("%s: image sizes are read anew each time: %s", self.path, error)
            return np.concatenate(
                [np.asarray(ids)[:, None], np.asarray(sizes).reshape(-1, 2)], axis=1
            )


def split_names(path: pathlib.Path) -> list[str]:
    """The splits of a prepared TFDS set."""
    return sorted(_open_set(path).info.splits)


def _open_set(path: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    if not path.is_dir():
        raise FileNotFoundError(f"no TFDS folder {path}")
    if not (path / "dataset_info.json").is_file():
        below = [p.parent for n in (1, 2, 3) for p in path.glob("*/" * n + "dataset_info.json")]
        found = ", ".join(map(str, sorted(below))) or "none"
        raise FileNotFoundError(
            f"{path} is not a prepared TFDS set, it has no dataset_info.json (sets below it: "
            f"{found}). `jaxseg data build` makes one from a COCO-format folder"
        )
    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # protobuf's, JSON's and TFDS's own
        raise ValueError(f"{path} cannot be opened as a TFDS set: {error}") from error
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{path} is stored as {builder.info.file_format.value}, which has no random access; "
            'prepare it with file_format="array_record"'
        )
    return builder


def _find_split(builder: Any, path: pathlib.Path, split: str) -> str:
    names = sorted(builder.info.splits)
    alike = [name for name in names if role_of(name) == split]
    if split == "val" and "validation" in names:
        alike.append("validation")
    if split in names:
        name = split
    elif len(alike) == 1:
        name = alike[0]
    else:
        raise ValueError(f"{path} has no split {split!r} (found: {', '.join(names) or 'none'})")
    missing = [p.name for p in builder.info.splits[name].filepaths if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} files of split {name} are missing, the first is {missing[0]}"
        )
    return name


def _format_of(builder: Any, path: pathlib.Path, split: str) -> Instances | Panoptic:
    """The kind of set, by its features."""
    features = builder.info.features
    if "panoptic_objects" in features:
        try:
            return Panoptic(features["panoptic_objects"]["label"].names)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    head = (builder.info.metadata or {}).get("splits", {}).get(split)
    if head is not None and "objects" in features and "number" in features["objects"].feature:
        return Instances(head)
    raise ValueError(
        f"{path} has no instance masks that can be read (its features: "
        f"{', '.join(sorted(features))}). Build a set with masks by `jaxseg data build`; of TFDS's "
        "own, coco/2017_panoptic can be read"
    )


def _records(builder: Any, split: str) -> Any:
    """Records by number, images as the bytes of their files."""
    import tensorflow_datasets as tfds

    images = [name for name in ("image", "panoptic_image") if name in builder.info.features]
    skip = {name: tfds.decode.SkipDecoding() for name in images}
    return builder.as_data_source(split, decoders=skip)
