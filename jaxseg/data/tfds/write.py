"""Writes a COCO-format folder as a TFDS set in ArrayRecord, shard by shard.

While a set is unfinished it lies in `<out>.incomplete`. A shard has its name only when it is
whole and on the disk; the folder gets its own only when all shards are. So after an interruption
the same call goes on with the next shard, and what has the final name can be relied on.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxseg.data.coco.folder import CocoSource
from jaxseg.data.tfds.index import write_index
from jaxseg.data.tfds.records import IMAGES_PER_SHARD

_PLAN = "build.json"
_WINDOW = 64
"""Images read ahead by threads."""


def build(
    folder: pathlib.Path,
    out: pathlib.Path,
    splits: Sequence[str] = (),
    *,
    ignore_issues: Sequence[str] = (),
    images_per_shard: int = IMAGES_PER_SHARD,
) -> bool:
    """Builds the set `out` from splits of a COCO-format folder, from all if none is named, without
    what has defects of the kinds in `ignore_issues` (`jaxseg.data.issues`).

    True if it was built, False if it was there already, built from the same annotations. Every
    image is decoded once, to see that it can be, and stored as the bytes of its file. A
    ValueError or OSError says what stands in the way; shards that are finished stay.
    """
    from jaxseg.data.tfds import builder

    out = out.expanduser().resolve()
    sources = builder.open_splits(folder, splits, ignore_issues)
    plan = {
        "builder": builder.VERSION,
        "images_per_shard": images_per_shard,
        "ignore_issues": sorted(ignore_issues),
        "annotations": {name: _digest(source.path) for name, source in sources.items()},
    }
    if out.exists() and _is_built(out, plan):
        return False
    work = out.with_name(out.name + ".incomplete")
    with _claimed(work, plan):
        _write(work, sources, images_per_shard)
        work.rename(out)
    _sync(out.parent)
    return True


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_built(out: pathlib.Path, plan: dict[str, Any]) -> bool:
    """Whether `out` is this very set; False also for an empty folder."""
    if (out / _PLAN).is_file():
        if _read_plan(out) == plan:
            return True
        raise ValueError(
            f"{out} was built with other {_differences(_read_plan(out), plan)}; delete it to build "
            "it anew, or choose another folder"
        )
    if not out.is_dir() or any(out.iterdir()):
        raise ValueError(f"{out} exists and is not a set that was built here; choose another name")
    return False


def _read_plan(folder: pathlib.Path) -> Any:
    try:
        return json.loads((folder / _PLAN).read_text())
    except ValueError:
        return None  # no build's, so other than any


def _differences(before: Any, plan: dict[str, Any]) -> str:
    before = before or {}
    return ", ".join(key for key in plan if before.get(key) != plan[key])


@contextlib.contextmanager
def _claimed(work: pathlib.Path, plan: dict[str, Any]) -> Iterator[None]:
    """The unfinished folder, locked against a second build; begun if it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is building {work}") from error
        for partial in work.glob("*.partial"):
            partial.unlink()
        file = work / _PLAN
        if not file.exists():
            partial = work / f"{_PLAN}.partial"
            partial.write_text(json.dumps(plan))
            _sync(partial)
            partial.rename(file)
        elif _read_plan(work) != plan:
            raise ValueError(
                f"{work} was begun with other {_differences(_read_plan(work), plan)}; delete it to "
                "begin anew"
            )
        yield
    finally:
        os.close(descriptor)


def _write(work: pathlib.Path, sources: Mapping[str, CocoSource], images_per_shard: int) -> None:
    """All that is missing in the folder; `dataset_info.json`, which makes it a set, comes last."""
    import tensorflow_datasets as tfds
    import tqdm
    from tensorflow_datasets.core import dataset_info, naming

    from jaxseg.data.tfds import builder

    identity = dataset_info.DatasetIdentity(
        name=builder.CocoInstances.name,
        version=builder.CocoInstances.VERSION,
        data_dir=str(work),
        module_name=builder.__name__,
        config_name=_config_name(sources),
    )
    info = builder.make_info(identity)
    info.set_file_format("array_record")
    categories = [c._asdict() for c in next(iter(sources.values())).categories]
    info.features["objects"]["label"].names = builder.label_names(categories)
    total = sum(map(len, sources.values()))
    heads, splits = {}, []
    with tqdm.tqdm(total=total, unit=" images", desc=work.stem, file=sys.stderr) as progress:
        for name, source in sources.items():
            records = builder.Records(source)
            template = naming.ShardedFileTemplate(
                data_dir=work,
                dataset_name=identity.name,
                split=name,
                filetype_suffix="array_record",
            )
            shards = builder.shards(len(source), images_per_shard)
            size = _write_split(records, shards, template, info.features, progress)
            heads[name] = records.head
            splits.append(tfds.core.SplitInfo(name, [len(shard) for shard in shards], size))
            write_index(work, name, source.image_ids, source.image_sizes)
            del records  # a split's parsed JSON, before the next one's
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.metadata["splits"] = heads
    info.write_to_directory(work)
    for path in work.iterdir():
        _sync(path)
    _sync(work)


def _config_name(splits: Mapping[str, Any]) -> str:
    """COCO's own splits have a config of their own."""
    from jaxseg.data.tfds import builder

    own = {config.splits: config.name for config in builder.CocoInstances.BUILDER_CONFIGS}
    return own.get(tuple(splits), "folder")


def _write_split(
    records: Any, shards: Sequence[range], template: Any, features: Any, progress: Any
) -> int:
    """Writes the shards that are missing; the bytes of all of them."""
    size = 0
    for number, indices in enumerate(shards):
        path = pathlib.Path(template.sharded_filepath(shard_index=number, num_shards=len(shards)))
        if path.exists():
            progress.update(len(indices))
        else:
            _write_shard(path, _serialized(records, indices, features, progress))
        size += path.stat().st_size
    return size


def _serialized(records: Any, indices: range, features: Any, progress: Any) -> Iterator[bytes]:
    """The records as TFDS stores them, in order."""
    from tensorflow_datasets.core import example_serializer

    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), _WINDOW):
            for record in pool.map(records.__getitem__, indices[start : start + _WINDOW]):
                example = serializer.get_tf_example(features.encode_example(record))
                # Else the order of the fields would be another in every process.
                yield example.SerializeToString(deterministic=True)
                progress.update()


def _write_shard(path: pathlib.Path, records: Iterator[bytes]) -> None:
    from array_record.python import array_record_module

    partial = path.with_name(path.name + ".partial")
    # "group_size:1": one record can be read without its neighbours.
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    try:
        for record in records:
            writer.write(record)
        writer.close()
        _sync(partial)
        partial.rename(path)
    except RuntimeError as error:  # of ArrayRecord, whatever the file system said
        raise OSError(
            f"{path} could not be written: {error}. Shards before it are kept: give the same "
            "command again to go on"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
