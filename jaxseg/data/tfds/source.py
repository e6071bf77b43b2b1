"""TFDS datasets as sources: those of our builder, with instance masks, and `coco/2017_panoptic`."""

import dataclasses
import io
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data.coco.annotations import xywh_to_xyxy
from jaxseg.data.coco.layout import is_tfds, role_of
from jaxseg.data.coco.segmentations import to_rle
from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.images import decode_image
from jaxseg.data.issues import IssuesError
from jaxseg.data.panoptic import PanopticMap
from jaxseg.data.source import Category, Example, check_category_names
from jaxseg.data.tfds.feature_classes import check_feature_classes
from jaxseg.data.tfds.index import make_index, read_index, write_index
from jaxseg.data.tfds.panoptic import PanopticDecoder
from jaxseg.data.tfds.records import IndexedAnnotation, InstanceDecoder

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TfdsFolder:
    """A prepared TFDS dataset: the folder that contains `dataset_info.json`.

    `train` and `val` name the splits for training and validation. Without such a split, `train`
    is also the only split named like `train2017` or `lvis_v1_train`, and `val` likewise or
    `validation`.
    """

    path: str
    train: str = "train"
    val: str = "val"
    ignore_image_ids: tuple[int, ...] = ()
    """Ids of images of the training split to skip, such as those that cannot be decoded. A run may
    be resumed with more of them."""

    def open(self, split: str) -> "TfdsSource":
        """Open the split of a role (`train`, `val`) or of the given name."""
        name = {"train": self.train, "val": self.val}.get(split, split)
        ignored = self.ignore_image_ids if name == self.train else ()
        path = pathlib.Path(self.path).expanduser()
        builder = _open_builder(path)
        name = _find_split(builder, path, name)
        if "panoptic_objects" in builder.info.features:
            names = builder.info.features["panoptic_objects"]["label"].names
            decoder = PanopticDecoder(names, f"{path}, split {name}")
            return TfdsPanopticSource(builder, path, name, decoder, ignored)
        return TfdsSource(builder, path, name, _make_decoder(builder, path, name), ignored)


class TfdsSource:
    """A split of a TFDS dataset, as a `Source`. Records are read through `as_data_source`."""

    def __init__(
        self,
        builder: Any,
        path: pathlib.Path,
        split: str,
        decoder: InstanceDecoder | PanopticDecoder,
        ignore_image_ids: Sequence[int] = (),
    ):
        self.path, self.split, self._decoder = path, split, decoder
        self.categories: Sequence[Category] = decoder.categories
        try:
            check_category_names(self.categories)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self._label_of = {c.id: label for label, c in enumerate(self.categories)}
        self._records: Any = _open_records(builder, self.split)
        index = read_index(path, self.split, len(self._records))
        if index is None:
            index = self._build_index()
        info = builder.info.splits[self.split]
        # Annotations are known by their size alone: to read them all would take minutes.
        sizes = f"{info.num_bytes} {info.shard_lengths}"
        self.fingerprint = fingerprint(index, sizes)
        unknown = sorted(set(ignore_image_ids) - set(index[:, 0].tolist()))
        if unknown:
            raise ValueError(
                f"ignore_image_ids: {path}, split {self.split}, has no image id {unknown[0]}; "
                "remove it"
            )
        self._rows = np.flatnonzero(~np.isin(index[:, 0], ignore_image_ids))
        index = index[self._rows]
        if not len(index):
            raise ValueError(f"{path}, split {self.split}: ignore_image_ids skips all images")
        self.image_ids = index[:, 0].tolist()
        self.image_sizes = index[:, 1:].astype(np.int32)
        self.object_counts: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open files: each process opens its own."""
        return {**self.__dict__, "_records": None}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Example:
        record = self._record(int(self._rows[index]))
        image = self._decoder.image(record)
        height, width = image["height"], image["width"]
        pixels = self._pixels(record, image)
        annotations = [annotation for _, annotation in self._annotations(record)]
        bboxes = np.asarray([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
        boxes = xywh_to_xyxy(bboxes)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        annotations = [annotations[i] for i in np.flatnonzero(has_area)]
        return Example(
            image=pixels,
            image_id=image["id"],
            boxes=boxes[has_area],
            labels=np.asarray([self._label_of[a["category_id"]] for a in annotations], np.int32),
            rles=[to_rle(a["segmentation"], height, width) for a in annotations],
            iscrowd=np.asarray([bool(a["iscrowd"]) for a in annotations], bool),
        )

    def _pixels(self, record: Mapping[str, Any], image: Mapping[str, Any]) -> np.ndarray:
        """Return the image as RGB; `image` is its entry of COCO's `images`."""
        file_name = image.get("file_name", "image")
        name = f"{self.path}, split {self.split}: {file_name} (image id {image['id']})"
        try:
            return decode_image(
                io.BytesIO(record["image"]), name, (image["height"], image["width"])
            )
        except ValueError as error:
            raise type(error)(
                f"{error}. Skip the image in training by --data.source.ignore-image-ids "
                f"{image['id']}, also on resume; other splits must be built without it"
            ) from error

    def ground_truth(self) -> dict[str, Any]:
        """Return the split as COCO JSON: the file's content, if the dataset was built from one."""
        images, indexed = [], []
        for index in range(len(self)):
            record = self._record(int(self._rows[index]))
            images.append(self._decoder.image(record))
            indexed += self._annotations(record)
        indexed.sort(key=lambda pair: pair[0])
        annotations = [annotation for _, annotation in indexed]
        return {**self._decoder.metadata, "images": images, "annotations": annotations}

    def _annotations(self, record: Mapping[str, Any]) -> list[IndexedAnnotation]:
        try:
            return self._decoder.annotations(record)
        except IssuesError:  # which names the dataset and the split
            raise
        except ValueError as error:
            raise ValueError(f"{self.path}, split {self.split}: {error}") from error

    def _record(self, index: int) -> Any:
        if self._records is None:
            self._records = _open_records(_open_builder(self.path), self.split)
        if not -len(self._records) <= index < len(self._records):
            raise IndexError(index)
        index %= len(self._records)
        try:
            return self._records[index]
        except Exception as error:  # ArrayRecord and TFDS raise many types
            raise ValueError(
                f"{self.path}, split {self.split}: record {index} cannot be read, the dataset is "
                f"corrupt: {error}"
            ) from error

    def _build_index(self) -> np.ndarray:
        """Build the index by reading all records, and write it beside the dataset if possible."""
        import tqdm

        indices = range(len(self._records))
        images = [
            self._decoder.image(self._record(index))
            for index in tqdm.tqdm(
                indices, desc="reading image sizes, once", delay=2, leave=False, disable=None
            )
        ]
        ids = [image["id"] for image in images]
        sizes = np.asarray([(image["height"], image["width"]) for image in images])
        index = make_index(ids, sizes)
        try:
            write_index(self.path, self.split, index)
        except OSError as error:
            _LOG.warning(
                "%s: cannot write the index of image sizes, which every start will read again: %s",
                self.path,
                error,
            )
        return index


class TfdsPanopticSource(TfdsSource):
    """A split of `coco/2017_panoptic`, as a `PanopticSource`."""

    _decoder: PanopticDecoder

    @property
    def num_things(self) -> int:
        """Return the number of thing categories, the first ones of `categories`."""
        return self._decoder.num_things

    def __getitem__(self, index: int, /) -> Example:
        record = self._record(int(self._rows[index]))
        image = self._decoder.image(record)
        segment_map = self._decoder.segment_map(record)
        return segment_map.example(self._pixels(record, image), image["id"], self.num_things)

    def panoptic_map(self, index: int, /) -> PanopticMap:
        """Return the panoptic map of the image `self[index]`."""
        return self._decoder.segment_map(self._record(int(self._rows[index]))).panoptic_map()


def split_names(path: pathlib.Path) -> list[str]:
    """List the splits of a prepared TFDS dataset."""
    return sorted(_open_builder(path).info.splits)


def _open_builder(path: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    if not path.is_dir():
        raise FileNotFoundError(f"no TFDS folder {path}")
    if not is_tfds(path):
        below = [p.parent for n in (1, 2, 3) for p in path.glob("*/" * n + "dataset_info.json")]
        found = ", ".join(map(str, sorted(below))) or "none"
        raise FileNotFoundError(
            f"{path} is not a prepared TFDS dataset, it has no dataset_info.json (datasets below "
            f"it: {found}). `jaxseg data build` makes one from a COCO-format folder"
        )
    check_feature_classes(path / "features.json")
    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # protobuf, JSON and TFDS raise many types
        raise ValueError(f"{path} cannot be opened as a TFDS dataset: {error}") from error
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{path} is stored as {builder.info.file_format.value}, which has no random access; "
            'prepare it with file_format="array_record"'
        )
    return builder


def _find_split(builder: Any, path: pathlib.Path, split: str) -> str:
    """Return the name of the split with that name or, if it is the only one, of that role."""
    names = sorted(builder.info.splits)
    matching = [name for name in names if role_of(name) == split]
    if split in names:
        name = split
    elif len(matching) == 1:
        name = matching[0]
    else:
        raise ValueError(f"{path} has no split {split!r} (found: {', '.join(names) or 'none'})")
    missing = [p.name for p in builder.info.splits[name].filepaths if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} files of split {name} are missing, the first is {missing[0]}"
        )
    return name


def _make_decoder(builder: Any, path: pathlib.Path, split: str) -> InstanceDecoder:
    """Return the decoder for the features of a dataset of our builder."""
    features = builder.info.features
    metadata = (builder.info.metadata or {}).get("splits", {}).get(split)
    if metadata is not None and "objects" in features and "index" in features["objects"].feature:
        return InstanceDecoder(metadata)
    raise ValueError(
        f"{path} has no supported instance masks (its features: {', '.join(sorted(features))}). "
        "Build a dataset with masks by `jaxseg data build`, or use TFDS's coco/2017_panoptic"
    )


def _open_records(builder: Any, split: str) -> Any:
    """Open a split's records by index, with images as the bytes of their files."""
    import tensorflow_datasets as tfds

    images = [name for name in ("image", "panoptic_image") if name in builder.info.features]
    skip = {name: tfds.decode.SkipDecoding() for name in images}
    return builder.as_data_source(split, decoders=skip)
