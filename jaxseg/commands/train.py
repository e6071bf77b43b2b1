"""The training behind `jaxseg train`: where an experiment, its data and the loop meet."""

import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import data, zoo
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import Experiment, from_json, to_json
from jaxseg.log import say
from jaxseg.model import Variables
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.preemption import raise_on_notice
from jaxseg.validation import make_validate


def train(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Trains `experiment` in `workdir`, or goes on with it where it was interrupted."""
    with raise_on_notice(step=None):
        source = experiment.data.source.open("train")
        check_classes(experiment, source)
        record = run_record(experiment, source.categories) | {"data": _fingerprint(source)}
        from_json(record["experiment"])  # a config that could not be read back is an error now
        _check_same_run(workdir, record)
        validate = None
        if experiment.train.eval_every:
            validate = make_validate(experiment, source.categories)
    _tell_of_crowded_images(source, experiment.data.max_objects)
    say(f"training on {len(source)} images, {jax.device_count()} device(s), in {workdir}")
    loop.train(
        experiment.model.build(),
        experiment.train,
        _train_data(experiment, source),
        workdir,
        record,
        pretrained=_pretrained(experiment),
        validate=validate,
    )


def check_classes(experiment: Experiment, source: data.Source) -> None:
    """Refuses data with another number of categories than the model has classes."""
    if experiment.model.num_classes != len(source.categories):
        raise ValueError(
            f"the data has {len(source.categories)} categories and the model.num_classes is "
            f"{experiment.model.num_classes}: set it to {len(source.categories)}"
        )


def _tell_of_crowded_images(source: data.Source, max_objects: int) -> None:
    """Says what the batches have no room for, where that is known without reading images."""
    counts = source.object_counts
    if counts is None or not len(counts) or counts.max() <= max_objects:
        return
    worst = int(np.argmax(counts))
    say(
        f"{int((counts > max_objects).sum())} images have more than {max_objects} objects, of "
        f"which training sees the {max_objects} largest; image id {source.image_ids[worst]} has "
        f"{counts[worst]}: --data.max-objects {counts[worst]} sees all"
    )


def _train_data(experiment: Experiment, source: data.Source) -> loop.TrainData:
    """The batches of the experiment: this host's share of each."""
    config, needs = experiment.train, experiment.model.build().needs
    same = {"batch_size": config.batch_size, "seed": config.seed}
    mine = {"shard_index": process_index(), "shard_count": process_count()}
    return loop.TrainData(
        batches=lambda start: data.train_batches(
            source, experiment.data, needs, **same, **mine, start_step=start
        ),
        image_ids=data.batch_image_ids(source, experiment.data, **same),
        image_shape=(1, *experiment.data.buckets[0], 3),
    )


def _pretrained(experiment: Experiment) -> Callable[[Variables], Variables] | None:
    """Puts the experiment's file of weights into a model's random variables, if it names one."""
    if experiment.pretrained is None:
        return None
    path, config = pathlib.Path(experiment.pretrained).expanduser(), experiment.model
    return lambda variables: zoo.replace_backbone(
        variables, zoo.load_resnet_file(path, config.backbone)
    )


def run_record(experiment: Experiment, categories: Sequence[data.Category]) -> dict[str, Any]:
    """What a checkpoint says of itself, as JSON."""
    return {
        "experiment": to_json(experiment),
        "categories": [{"id": c.id, "name": c.name} for c in categories],
    }


def _fingerprint(source: data.Source) -> dict[str, int]:
    """What tells whether a run goes on with the images, in the order, that it began with. Their
    annotations may have been mended."""
    ids = np.asarray(source.image_ids, np.int64).tobytes()
    sizes = np.ascontiguousarray(source.image_sizes, np.int32).tobytes()
    return {"images": len(source), "checksum": zlib.crc32(ids + sizes)}


MAY_CHANGE = (
    "data.source.path",
    "data.num_threads",
    "data.num_workers",
    "model.backbone.remat",
    "pretrained",
    "train.checkpoint_every",
    "train.eval_every",
    "train.max_to_keep",
    "train.log_every",
    "train.parallel",
    "train.grad_accum_steps",
    "train.max_consecutive_nonfinite",
)
"""Fields that a run may be resumed with other values of: they change where and how it is computed,
not what is learned. `pretrained` is read at the start only. On fewer devices, `pieces` and `remat`
make the same step fit (batch norm's statistics, where it is trained, are those of a piece)."""


def _check_same_run(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Refuses to go on with a run of another experiment."""
    # What one host alone sees must not keep it from a wait of all.
    if not allgather_json((workdir / "checkpoints").is_dir())[0]:
        return
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if allgather_json(checkpoints.latest_step())[0] is None:
            return
        found = checkpoints.experiment()
    before = _flatten({name: value for name, value in found.items() if name in record})
    now = _flatten(record)
    changed = [
        f"{name.removeprefix('experiment.')} ({before.get(name)} -> {now.get(name)})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name.removeprefix("experiment.") not in MAY_CHANGE
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other choices: {', '.join(changed)}. "
            "Give the same ones to go on with it, or another --workdir."
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as `{"train.optimizer.name": "sgd", ...}`."""
    if isinstance(value, dict):
        items = value.items()
        return {k: v for name, item in items for k, v in _flatten(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): value}
