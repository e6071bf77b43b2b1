"""`CocoInstances`: a TFDS builder of COCO-format data with instance masks.

It is used as any TFDS builder:

    builder = CocoInstances(config=CocoConfig("cells", folder="data"), data_dir="datasets")
    builder.download_and_prepare(file_format="array_record")

After an interruption this starts again; `jaxseg.data.tfds.build` writes the same records and
resumes.
"""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from jaxseg.data.coco.folder import CocoFolder
from jaxseg.data.coco.instances import CocoSource
from jaxseg.data.coco.layout import is_panoptic, list_splits
from jaxseg.data.tfds.records import IMAGES_PER_SHARD, IndexedAnnotation, features, to_record
from jaxseg.files import open_regular

VERSION = "1.0.0"
_NOT_OF_PANOPTIC = (
    "{} has panoptic annotations, from which no dataset is built: training reads the folder itself"
)


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """The data to build: `CocoConfig("any name", folder=...)` for your own folder."""

    folder: str | None = None
    """A folder that `CocoFolder` reads; None is TFDS's folder of manual downloads."""
    splits: Sequence[str] = ()
    """Names of splits; if empty, all splits of the folder."""


class CocoInstances(tfds.core.ShardBasedBuilder):
    """Images with instance masks from COCO-format annotations, in the order of the file.

    It writes shard by shard. TFDS would sort the examples of a `GeneratorBasedBuilder`, and needs
    TensorFlow to sort more than 1 GB.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = tuple(
        CocoConfig(year, splits=(f"train{year}", f"val{year}")) for year in ("2014", "2017")
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack COCO's images and annotations (https://cocodataset.org/#download), so that the "
        "folder holds annotations/instances_train2017.json, train2017/ and so on."
    )

    url_infos = None
    """Nothing is downloaded. Otherwise TFDS searches for checksums beside the builder's code, with
    a package that TFDS does not require."""

    def _info(self) -> Any:
        return make_info(self)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, Any]]]]]:
        config = self.builder_config
        sources = open_splits(pathlib.Path(config.folder or dl_manager.manual_dir), config.splits)
        records = {name: Records(source) for name, source in sources.items()}
        add_metadata(self.info, {name: split.metadata for name, split in records.items()})
        return {
            name: [
                functools.partial(_iterate_shard, split, indices)
                for indices in shard_indices(len(sources[name]), IMAGES_PER_SHARD)
            ]
            for name, split in records.items()
        }


def _iterate_shard(records: "Records", indices: range) -> Iterator[tuple[int, Any]]:
    return ((index, records[index]) for index in indices)


def shard_indices(count: int, images_per_shard: int) -> list[range]:
    """Return the indices of the images in each shard, of `count` images in all."""
    starts = range(0, count, images_per_shard)
    return [range(start, min(start + images_per_shard, count)) for start in starts]


class Records:
    """The TFDS records of a source, one per image in the file's order, and its metadata."""

    def __init__(self, source: CocoSource):
        self._source = source
        self.metadata = source.ground_truth()
        self._images = {image["id"]: image for image in self.metadata.pop("images")}
        self._annotations: dict[int, list[IndexedAnnotation]] = collections.defaultdict(list)
        for index, annotation in enumerate(self.metadata.pop("annotations")):
            self._annotations[annotation["image_id"]].append((index, annotation))
        self._label_of = {c.id: label for label, c in enumerate(source.categories)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the record of an image; raise ValueError if the image cannot be decoded."""
        self._source[index]  # decodes it
        image_id = self._source.image_ids[index]
        with open_regular(self._source.image_path(index)) as file:
            data = file.read()
        annotations = self._annotations.get(image_id, [])
        try:
            return to_record(self._images[image_id], data, annotations, self._label_of)
        except ValueError as error:
            raise ValueError(f"{self._source.path}: {error}") from error


def open_splits(
    folder: pathlib.Path,
    splits: Sequence[str],
    *,
    images: pathlib.Path | None = None,
    ignore_issues: Sequence[str] = (),
    allow_outside_files: bool = False,
) -> dict[str, CocoSource]:
    """Open the named splits of a COCO-format folder, or all of them if no name is given.

    Raises the errors of `CocoFolder.open`, and ValueError if the splits cannot form one dataset.
    """
    names = tuple(dict.fromkeys(splits)) or _all_split_names(folder, images)
    for name in names:
        if not re.fullmatch(r"[\w-]+", name) or name.lower() == "all":
            raise ValueError(
                f"{folder}: TFDS does not accept the split name {name!r}; a name has letters, "
                "digits, - and _, and is not 'all'. Rename it, or build other splits by name"
            )
    config = CocoFolder(
        str(folder),
        ignore_issues=tuple(ignore_issues),
        allow_outside_files=allow_outside_files,
        images=None if images is None else str(images),
    )
    sources: dict[str, CocoSource] = {}
    for name in names:
        source = config.open(name)
        if not isinstance(source, CocoSource):
            raise ValueError(_NOT_OF_PANOPTIC.format(folder))
        sources[name] = source
    first = names[0]
    for name in names[1:]:
        if sources[name].categories != sources[first].categories:
            raise ValueError(
                f"{folder}: the splits {first} and {name} have different categories, so they "
                "cannot form one dataset; build each of them by name"
            )
    return sources


def _all_split_names(folder: pathlib.Path, images: pathlib.Path | None) -> tuple[str, ...]:
    names = tuple(split.name for split in list_splits(folder, images))
    if not names and is_panoptic(folder):
        raise ValueError(_NOT_OF_PANOPTIC.format(folder))
    if not names:
        raise FileNotFoundError(
            f"{folder} has no annotations; it needs SPLIT.json and images/, or "
            "annotations/instances_SPLIT.json and SPLIT/"
        )
    return names


def make_info(builder: Any) -> Any:
    """Return the `tfds.core.DatasetInfo` of a builder or a `DatasetIdentity`, without any data."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description="Images with instance masks from COCO-format annotations.",
        features=features(),
        # The order of the file is the order of the dataset, as when the folder is read.
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
    )


def add_metadata(info: Any, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Add each split's metadata to a `DatasetInfo`, and set the label names."""
    info.metadata["splits"] = dict(metadata)
    set_label_names(info, next(iter(metadata.values()))["categories"])


def set_label_names(info: Any, categories: Sequence[Mapping[str, Any]]) -> None:
    """Set the label names of a `DatasetInfo` from COCO's `categories`."""
    info.features["objects"]["label"].names = label_names(categories)


def label_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the label names, ordered by category id: of one line and unique, as TFDS requires."""
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [" ".join(category["name"].split()) for category in ordered]
    if len(set(names) - {""}) < len(names):
        return [f"{name} ({c['id']})".strip() for name, c in zip(names, ordered, strict=True)]
    return names
