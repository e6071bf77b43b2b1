"""Write a COCO-format folder as a TFDS dataset in ArrayRecord, shard by shard.

An unfinished dataset has the name `<out>.incomplete`. Each shard is written atomically, and the
folder is renamed when all shards are on the disk. So the same call resumes an interrupted build at
the next shard, and a folder with the final name is complete.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxseg import files
from jaxseg.data.coco.instances import CocoSource
from jaxseg.data.tfds.index import make_index, write_index
from jaxseg.data.tfds.records import IMAGES_PER_SHARD

_PLAN = "build.json"
_PREFETCH = 64
"""Images that threads read ahead."""


def build(
    folder: pathlib.Path,
    out: pathlib.Path,
    splits: Sequence[str] = (),
    *,
    images: pathlib.Path | None = None,
    ignore_issues: Sequence[str] = (),
    allow_outside_files: bool = False,
    images_per_shard: int = IMAGES_PER_SHARD,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Build the TFDS dataset `out` from a COCO-format folder, or resume an interrupted build.

    Each image is decoded once as a check, and stored as the bytes of its file. Finished shards are
    kept if an error is raised.

    Args:
        folder: the COCO-format folder or file.
        out: the folder of the new dataset.
        splits: names of the splits to build; all if there are none.
        images: the folder of the images, where the layout does not say it.
        ignore_issues: kinds of issues (`jaxseg.data.issues`) whose images and annotations are
            skipped.
        allow_outside_files: accept file names that leave the image folder.
        images_per_shard: images in each file.
        progress: called after each image with how many are done and how many there are.

    Returns:
        True if it was built; False if it was already there, built from the same annotations.

    Raises:
        ValueError, OSError: annotations or images are invalid, `out` is something else, another
            process is building it, or it cannot be written.
    """
    from jaxseg.data.tfds import builder

    out = out.expanduser().resolve()
    files.check_output_folder(out)
    sources = builder.open_splits(
        folder,
        splits,
        images=images,
        ignore_issues=ignore_issues,
        allow_outside_files=allow_outside_files,
    )
    plan = {
        "builder": builder.VERSION,
        "images_per_shard": images_per_shard,
        "ignore_issues": sorted(ignore_issues),
        "annotations": {name: source.digest for name, source in sources.items()},
    }
    if out.exists() and _is_built(out, plan):
        return False
    incomplete = out.with_name(out.name + ".incomplete")
    with _locked_folder(incomplete, plan):
        _write_dataset(incomplete, sources, images_per_shard, progress)
        incomplete.rename(out)
    files.fsync(out.parent)
    return True


def _is_built(out: pathlib.Path, plan: dict[str, Any]) -> bool:
    """Return whether `out` is the dataset of this plan; False for an empty folder.

    Raises ValueError if it is anything else.
    """
    if (out / _PLAN).is_file():
        built_plan = _read_plan(out)
        if built_plan == plan:
            return True
        raise ValueError(
            f"{out} was built with other {_differences(built_plan, plan)}; delete it to build it "
            "again, or choose another folder"
        )
    if not out.is_dir() or any(out.iterdir()):
        raise ValueError(
            f"{out} exists and is not a dataset built by this command; choose another name"
        )
    return False


def _read_plan(folder: pathlib.Path) -> Any:
    """Read the plan of a folder; None if it is not valid JSON."""
    try:
        return json.loads((folder / _PLAN).read_text())
    except ValueError:
        return None


def _differences(other: Any, plan: dict[str, Any]) -> str:
    other = other or {}
    return ", ".join(key for key in plan if other.get(key) != plan[key])


@contextlib.contextmanager
def _locked_folder(folder: pathlib.Path, plan: dict[str, Any]) -> Iterator[None]:
    """Lock the unfinished folder against other builds; create it with the plan if needed.

    Raises ValueError if another process has the lock, or if the folder has another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is building {folder}") from error
        for partial in folder.glob("*.partial"):  # of a killed build
            partial.unlink()
        if not (folder / _PLAN).exists():
            with files.atomic_write(folder / _PLAN, sync=True) as partial:
                partial.write_text(json.dumps(plan))
        elif (started_plan := _read_plan(folder)) != plan:
            raise ValueError(
                f"{folder} was started with other {_differences(started_plan, plan)}; delete it "
                "to start again"
            )
        yield
    finally:
        os.close(descriptor)


def _write_dataset(
    folder: pathlib.Path,
    sources: Mapping[str, CocoSource],
    images_per_shard: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write everything that is missing; `dataset_info.json`, which makes it a dataset, is last."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info, naming

    from jaxseg.data.tfds import builder

    identity = dataset_info.DatasetIdentity(
        name=builder.CocoInstances.name,
        version=builder.CocoInstances.VERSION,
        data_dir=str(folder),
        module_name=builder.__name__,
        config_name=_config_name(sources),
    )
    info = builder.make_info(identity)
    info.set_file_format("array_record")
    # Encoding needs the labels' names before the first split's metadata is there.
    categories = [c._asdict() for c in next(iter(sources.values())).categories]
    builder.set_label_names(info, categories)
    metadata, splits = {}, []
    total = sum(map(len, sources.values()))
    counter = _Counter(progress, total)
    for name, source in sources.items():
        records = builder.Records(source)
        template = naming.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=identity.name,
            split=name,
            filetype_suffix="array_record",
        )
        shards = builder.shard_indices(len(source), images_per_shard)
        size = _write_split(records, shards, template, info.features, counter)
        metadata[name] = records.metadata
        splits.append(tfds.core.SplitInfo(name, [len(shard) for shard in shards], size))
        write_index(folder, name, make_index(source.image_ids, source.image_sizes))
        del records  # frees a split's parsed JSON before the next one is read
    info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.add_metadata(info, metadata)
    info.write_to_directory(folder)
    for path in folder.iterdir():
        files.fsync(path)
    files.fsync(folder)


class _Counter:
    """Counts the images that are done and reports each."""

    def __init__(self, progress: Callable[[int, int], None], total: int):
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        """Report `count` more images."""
        self._done += count
        self._progress(self._done, self._total)


def _config_name(splits: Mapping[str, Any]) -> str:
    """Return the builder config of COCO's own splits, or `folder` for others."""
    from jaxseg.data.tfds import builder

    names = {config.splits: config.name for config in builder.CocoInstances.BUILDER_CONFIGS}
    return names.get(tuple(splits), "folder")


def _write_split(
    records: Any, shards: Sequence[range], template: Any, features: Any, counter: "_Counter"
) -> int:
    """Write the missing shards of a split, and return the bytes of all its shards."""
    size = 0
    for number, indices in enumerate(shards):
        path = pathlib.Path(template.sharded_filepath(shard_index=number, num_shards=len(shards)))
        if path.exists():
            counter.add(len(indices))
        else:
            _write_shard(path, _serialize(records, indices, features, counter))
        size += path.stat().st_size
    return size


def _serialize(records: Any, indices: range, features: Any, counter: "_Counter") -> Iterator[bytes]:
    """Yield the records as TFDS stores them, in order."""
    from tensorflow_datasets.core import example_serializer

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), _PREFETCH):
            for record in pool.map(records.__getitem__, indices[start : start + _PREFETCH]):
                example = serializer.get_tf_example(features.encode_example(record))
                # Without it the order of the fields differs between processes.
                yield example.SerializeToString(deterministic=True)
                counter.add(1)


def _write_shard(path: pathlib.Path, records: Iterator[bytes]) -> None:
    from array_record.python import array_record_module

    try:
        with files.atomic_write(path, sync=True) as partial:
            # "group_size:1": a record can be read without its neighbours.
            writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
    except RuntimeError as error:  # ArrayRecord's type for errors of the file system
        raise OSError(
            f"{path} could not be written: {error}. Earlier shards are kept: run the same command "
            "again to resume"
        ) from error
