"""`jaxseg train`: an experiment's data, model and settings, passed to the training loop."""

import contextlib
import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import data, zoo
from jaxseg.commands.settings import DATA_NOTE, changed_fields, check_processes_agree, flatten
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import Experiment, config_modules, from_json, to_json
from jaxseg.files import check_output_folder
from jaxseg.model import Model, Variables
from jaxseg.parallel import check_batch_size
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.preemption import PreemptionNotice, run_unless_stopped
from jaxseg.training.step import init_variables
from jaxseg.validation import Validator

CHANGEABLE_ON_RESUME = (
    "data.source.path",
    "data.source.allow_outside_files",
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
"""Fields that may differ when a run is resumed: they change where and how it is computed, not what
it learns. `pretrained` is read at the start only. `grad_accum_steps` and `remat` let the same step
fit on fewer devices (batch norm, where it is trained, then sees smaller microbatches).

`data.source.ignore_image_ids` may name more images than before, so that a run can go on without
images that went bad. From there on it draws the remaining images in another order, the same for
each run that is resumed at that step without these images."""
_IGNORED_IDS = "data.source.ignore_image_ids"

_LOG = logging.getLogger(__name__)


def train(
    experiment: Experiment, workdir: pathlib.Path, notice: PreemptionNotice | None = None
) -> None:
    """Train `experiment` in `workdir`, or resume the run that `workdir` holds.

    What can be checked without the data is checked before they are opened: the folder, the batch
    size and the pretrained weights. Raises Preempted after `notice`, the notice to stop, with the
    state saved.
    """
    notice = notice or PreemptionNotice()
    if process_index() == 0:
        check_output_folder(workdir, "--workdir")
    config, model, modules = experiment.train, experiment.model.build(), config_modules(experiment)
    check_batch_size(config.batch_size, jax.device_count(), config.grad_accum_steps)
    backbone = _load_pretrained(experiment, workdir)
    data_of_run = run_unless_stopped(notice, lambda: _open_data(experiment, modules, notice))
    source, validator, metadata = data_of_run
    val = {} if validator is None else {"val": {"fingerprint": validator.source.fingerprint}}
    check_processes_agree(allgather_json(metadata | val))
    check_resumable(workdir, metadata, modules)
    pipeline = data.TrainPipeline(
        source,
        experiment.data,
        model.targets,
        config.batch_size,
        config.seed,
        shard_index=process_index(),
        shard_count=process_count(),
    )
    _warn_of_truncated_objects(source, experiment.data.max_objects)
    _LOG.info(
        "training on %d images, %d device(s), in %s", len(source), jax.device_count(), workdir
    )
    loop.train(
        model,
        config,
        pipeline,
        workdir,
        metadata,
        initial_variables=lambda: _initial_variables(
            experiment, model, backbone, pipeline.image_shape
        ),
        validate=validator,
        notice=notice,
    )


def _open_data(
    experiment: Experiment, modules: Collection[str], notice: PreemptionNotice
) -> tuple[data.Source, Validator | None, dict[str, Any]]:
    """Return the training split, what evaluates on `val` if the run does so, and the metadata."""
    source = experiment.data.source.open("train")
    check_num_classes(experiment, source)
    metadata = run_metadata(experiment, source.categories) | {
        "data": {"fingerprint": source.fingerprint}
    }
    from_json(metadata["experiment"], modules)  # fail now if it cannot be read back later
    if not experiment.train.eval_every:
        return source, None, metadata
    return source, Validator(experiment, source.categories, notice), metadata


def check_num_classes(experiment: Experiment, source: data.Source) -> None:
    """Raise ValueError unless the model has as many classes as the data has categories."""
    if experiment.model.num_classes != len(source.categories):
        raise ValueError(
            f"the data has {len(source.categories)} categories and model.num_classes is "
            f"{experiment.model.num_classes}: set it to {len(source.categories)}"
        )


def run_metadata(experiment: Experiment, categories: Sequence[data.Category]) -> dict[str, Any]:
    """Return the JSON that is stored with a checkpoint and suffices to use it."""
    return {
        "experiment": to_json(experiment),
        "categories": [{"id": c.id, "name": c.name} for c in categories],
    }


def check_resumable(
    workdir: pathlib.Path, metadata: dict[str, Any], allow_modules: Collection[str] = ()
) -> None:
    """Raise ValueError if `workdir` holds a run of another experiment or other data.

    `allow_modules` are modules of config classes, besides jaxseg's own.
    """
    # A shared disk may show a new checkpoint to some processes late.
    found = allgather_json(_saved_metadata(workdir))
    saved = next((metadata for metadata in found if metadata is not None), None)
    if saved is None:
        return
    # Read and written again, a config gets the defaults of fields that are newer than the run.
    with contextlib.suppress(ValueError):  # of other config classes: they differ, see below
        saved["experiment"] = to_json(from_json(saved["experiment"], allow_modules))
    before = flatten({name: value for name, value in saved.items() if name in metadata})
    now = flatten(metadata)
    ids, ids_before = (set(side.get(f"experiment.{_IGNORED_IDS}", ())) for side in (now, before))
    allowed = [*CHANGEABLE_ON_RESUME, *([_IGNORED_IDS] if ids >= ids_before else [])]
    changed = changed_fields(before, now, allowed)
    if changed:
        raise ValueError(
            f"{workdir} holds a run with a different config: {', '.join(changed)}. "
            f"Use the same values{DATA_NOTE} to resume it, or another --workdir"
        )


def _saved_metadata(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Return the metadata of the newest checkpoint that this process sees; None if it sees none."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return None if checkpoints.latest_step() is None else checkpoints.metadata()


def _warn_of_truncated_objects(source: data.Source, max_objects: int) -> None:
    """Log how many images have more objects than a batch holds, if the source has the counts."""
    counts = source.object_counts
    if counts is None or not len(counts) or counts.max() <= max_objects or process_index() != 0:
        return
    largest = int(np.argmax(counts))
    _LOG.warning(
        "%d images have more than %d objects, of which training uses the %d largest; image id %d "
        "has %d: --data.max-objects %d uses all",
        int((counts > max_objects).sum()),
        max_objects,
        max_objects,
        source.image_ids[largest],
        counts[largest],
        counts[largest],
    )


def _load_pretrained(experiment: Experiment, workdir: pathlib.Path) -> Variables | None:
    """Return the weights for the backbone of a new run; None without, and for a run to resume.

    A collective. Raises FileNotFoundError or ValueError if the file does not fit the backbone.
    """
    if experiment.pretrained is None:
        return None
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = allgather_json(checkpoints.latest_step())
    if any(step is not None for step in steps):
        return None
    path = pathlib.Path(experiment.pretrained).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path} with pretrained weights: name one with --pretrained FILE, or start "
            "from random ones with --pretrained None"
        )
    return zoo.load_resnet_file(path, experiment.model.backbone)


def _initial_variables(
    experiment: Experiment,
    model: Model,
    backbone: Variables | None,
    image_shape: tuple[int, ...],
) -> Variables:
    """Return the variables of a new run: random, with the pretrained backbone if there is one."""
    variables = init_variables(model, image_shape, experiment.train.seed)
    return variables if backbone is None else zoo.replace_backbone(variables, backbone)
