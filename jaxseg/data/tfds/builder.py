"""`CocoInstances`: COCO-format data as a TFDS builder, masks included.

TFDS's own way works as with any builder:

    builder = CocoInstances(config=CocoConfig("mine", folder="data"), data_dir="sets")
    builder.download_and_prepare(file_format="array_record")

It begins anew after an interruption; `jaxseg.data.tfds.build` writes the same records and goes on.
"""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from jaxseg.data.coco.folder import CocoFolder, CocoSource, list_splits
from jaxseg.data.tfds.records import IMAGES_PER_SHARD, Numbered, features, to_record

VERSION = "1.0.0"


@dataclasses.dataclass(eq=False)
class CocoConfig(tfds.core.BuilderConfig):
    """Which data: `CocoConfig("any name", folder=...)` for a folder of one's own."""

    folder: str | None = None
    """A folder that `CocoFolder` reads; None: TFDS's folder of what was downloaded by hand."""
    splits: Sequence[str] = ()
    """Names of splits; none: all in the folder."""


class CocoInstances(tfds.core.ShardBasedBuilder):
    """Images with instance masks from COCO-format annotations, in the order of the file.

    Shard by shard, since TFDS sorts what a `GeneratorBasedBuilder` yields, and for that needs
    TensorFlow where it is more than 1 GB.
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
    """Nothing is downloaded. TFDS would look beside its code for checksums, and needs a package for
    that which it does not require."""

    def _info(self) -> Any:
        return make_info(self)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, Any]]]]]:
        config = self.builder_config
        sources = open_splits(pathlib.Path(config.folder or dl_manager.manual_dir), config.splits)
        records = {name: Records(source) for name, source in sources.items()}
        describe(self.info, {name: split.head for name, split in records.items()})
        return {
            name: [
                functools.partial(_shard, split, indices)
                for indices in shards(len(sources[name]), IMAGES_PER_SHARD)
            ]
            for name, split in records.items()
        }


def _shard(images: "Records", indices: range) -> Iterator[tuple[int, Any]]:
    return ((index, images[index]) for index in indices)


def shards(count: int, images_per_shard: int) -> list[range]:
    """Which of `count` images are in each shard."""
    starts = range(0, count, images_per_shard)
    return [range(start, min(start + images_per_shard, count)) for start in starts]


class Records:
    """The records of a source, one for each image in the file's order; `head` is the file's."""

    def __init__(self, source: CocoSource):
        self._source = source
        self.head = source.ground_truth()
        self._entries = {entry["id"]: entry for entry in self.head.pop("images")}
        self._annotations: dict[int, list[Numbered]] = collections.defaultdict(list)
        for number, annotation in enumerate(self.head.pop("annotations")):
            self._annotations[annotation["image_id"]].append((number, annotation))
        self._label = {c.id: label for label, c in enumerate(source.categories)}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record of image `index`. A ValueError if training could not read the image."""
        self._source[index]
        image_id = self._source.image_ids[index]
        image = self._source.image_path(index).read_bytes()
        annotations = self._annotations.get(image_id, [])
        try:
            return to_record(self._entries[image_id], image, annotations, self._label)
        except ValueError as error:
            raise ValueError(f"{self._source.path}: {error}") from error


def open_splits(
    folder: pathlib.Path, splits: Sequence[str], ignore_issues: Sequence[str] = ()
) -> dict[str, CocoSource]:
    """The splits of a COCO-format folder by name, all of them if none is named.

    Raises as `CocoFolder.open` does, and a ValueError where the splits cannot share a set.
    """
    names = tuple(dict.fromkeys(splits)) or _splits_in(folder)
    for name in names:
        if not re.fullmatch(r"[\w-]+", name) or name.lower() == "all":
            raise ValueError(
                f"{folder}: TFDS has no split named {name!r}; a name is of letters, digits, - and "
                "_, and not 'all'. Rename it, or name the other splits"
            )
    sources = {
        name: CocoFolder(str(folder), ignore_issues=tuple(ignore_issues)).open(name)
        for name in names
    }
    first = names[0]
    for name in names[1:]:
        if sources[name].categories != sources[first].categories:
            raise ValueError(
                f"{folder}: the splits {first} and {name} differ in their categories, so they "
                "cannot be one set; build each on its own by naming it"
            )
    return sources


def _splits_in(folder: pathlib.Path) -> tuple[str, ...]:
    names = tuple(split.name for split in list_splits(folder))
    if not names:
        raise FileNotFoundError(
            f"{folder} has no annotations; it needs SPLIT.json and images/, or "
            "annotations/instances_SPLIT.json and SPLIT/"
        )
    return names


def make_info(builder: Any) -> Any:
    """The `tfds.core.DatasetInfo` of a builder or a `DatasetIdentity`, without any data yet."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description="Images with instance masks from COCO-format annotations.",
        features=features(),
        # The order of the file is the order of the set, as it is when the folder is read.
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
    )


def describe(info: Any, heads: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds what the splits' files say besides images and annotations, and names the labels."""
    info.metadata["splits"] = dict(heads)
    categories = next(iter(heads.values()))["categories"]
    info.features["objects"]["label"].names = label_names(categories)


def label_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the labels, categories by id: one line each and no two alike, as TFDS asks."""
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [" ".join(category["name"].split()) for category in ordered]
    if len(set(names) - {""}) < len(names):
        return [f"{name} ({c['id']})".strip() for name, c in zip(names, ordered, strict=True)]
    return names
