"""`jaxseg train`: an experiment's data, model and settings, passed to the training loop."""

import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from jaxseg import data
from jaxseg.commands.initial import Start, initial_variables, read_start
from jaxseg.commands.resume import check_resumable, fork_run
from jaxseg.commands.settings import check_processes_agree, split_identity
from jaxseg.data.panoptic import (
    check_semantic_maps,
    label_categories,
    num_semantic_classes,
    thing_categories,
)
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import Experiment, config_modules, from_json, to_json
from jaxseg.files import check_output_folder
from jaxseg.model import PanopticModelConfig
from jaxseg.parallel import check_batch_size
from jaxseg.training import loop
from jaxseg.training.preemption import PreemptionNotice, run_unless_stopped
from jaxseg.validation import Validator

_LOG = logging.getLogger(__name__)
_SLOW_JAXLIB = ("0.10.2", "0.11.0")
"""Versions whose float32 scatter-add on GPUs, which RoIAlign's gradient consists of, is a loop of
compare-and-swap: hundreds of times slower (https://github.com/openxla/xla/issues/46225)."""


def train(
    experiment: Experiment,
    workdir: pathlib.Path,
    notice: PreemptionNotice | None = None,
    *,
    fork: pathlib.Path | None = None,
) -> None:
    """Train `experiment` in `workdir`, or resume the run that `workdir` holds.

    What can be checked without the data is checked before they are opened: the folder, the batch
    size, and the files that the run starts from.

    Args:
        experiment: the experiment.
        workdir: the folder for checkpoints and curves.
        notice: the notice to stop; None if it never comes.
        fork: the workdir of another run, from whose newest state a new run in `workdir` goes on.

    Raises Preempted after `notice`, with the state saved.
    """
    notice = notice or PreemptionNotice()
    if process_index() == 0:
        check_output_folder(workdir, "--workdir")
    config, model, modules = experiment.train, experiment.model.build(), config_modules(experiment)
    check_batch_size(config.batch_size, jax.device_count(), config.grad_accum_steps)
    _warn_of_slow_jaxlib()
    start = Start()
    if fork is None and not (workdir / "checkpoints").is_dir():
        start = read_start(experiment)
    data_of_run = run_unless_stopped(notice, lambda: _open_data(experiment, modules, notice))
    source, validator, metadata = data_of_run
    val = {} if validator is None else {"val": split_identity(validator.source)}
    check_processes_agree(allgather_json(metadata | val | {"fork": fork is not None}))
    resumed = check_resumable(workdir, metadata, modules)
    if fork is not None and not resumed:
        fork_run(fork, workdir, experiment, metadata)
    pipeline = data.TrainPipeline(
        source,
        experiment.data,
        model.targets,
        config.batch_size,
        config.seed,
        shard_index=process_index(),
        shard_count=process_count(),
    )
    class_names = [category.name for category in label_categories(source, experiment.model)]
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
        initial_variables=lambda: initial_variables(
            experiment, model, start, pipeline.image_shape, class_names
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
    categories = label_categories(source, experiment.model)
    metadata = run_metadata(experiment, categories) | {"data": {"fingerprint": source.fingerprint}}
    from_json(metadata["experiment"], modules)  # fail now if it cannot be read back later
    if not experiment.train.eval_every:
        return source, None, metadata
    return source, Validator(experiment, categories, notice), metadata


def check_num_classes(experiment: Experiment, source: data.Source) -> None:
    """Raise ValueError unless the data has things, and the model as many classes as the data.

    A panoptic model has classes of things and of stuff; others learn panoptic data's things alone.
    A model with a semantic branch has `num_semantic_classes`, those of the semantic maps.
    """
    model, things = experiment.model, len(thing_categories(source))
    stuff = len(source.categories) - things
    if not things:
        raise ValueError(
            f"the data has {count_categories(source)}, and no objects to learn: give it a category "
            "of things (isthing 1 in panoptic annotations)"
        )
    if model.num_classes != things:
        raise ValueError(
            f"the data has {count_categories(source)} and model.num_classes is "
            f"{model.num_classes}: set it by --model.num-classes {things}"
        )
    if isinstance(model, PanopticModelConfig) and model.num_stuff_classes != stuff:
        if not stuff:
            raise ValueError(
                "the model is panoptic, but the data has no stuff: use panoptic data, such as a "
                "folder with annotations/panoptic_train.json and the maps in "
                "annotations/panoptic_train/"
            )
        raise ValueError(
            f"the data has {count_categories(source)} and model.num_stuff_classes is "
            f"{model.num_stuff_classes}: set it by --model.num-stuff-classes {stuff}"
        )
    targets = model.build().targets
    check_semantic_maps(source, targets)
    classes, of_model = num_semantic_classes(source), getattr(model, "num_semantic_classes", None)
    has_branch = targets.semantic_stride is not None and of_model is not None
    if has_branch and of_model != classes:
        raise ValueError(
            f"the semantic maps of the data have {classes} classes and model.num_semantic_classes "
            f"is {of_model}: set it by --model.num-semantic-classes {classes}"
        )


def count_categories(source: data.Source) -> str:
    """Return "1 category", "5 categories", or "5 categories of things and 3 of stuff"."""
    things = len(thing_categories(source))
    number = f"{things} {'category' if things == 1 else 'categories'}"
    stuff = len(source.categories) - things
    return f"{number} of things and {stuff} of stuff" if stuff else number


def run_metadata(experiment: Experiment, categories: Sequence[data.Category]) -> dict[str, Any]:
    """Return the JSON that is stored with a checkpoint and suffices to use it."""
    return {
        "experiment": to_json(experiment),
        "categories": [{"id": c.id, "name": c.name} for c in categories],
    }


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


def _warn_of_slow_jaxlib() -> None:
    version = jaxlib.__version__
    if jax.default_backend() == "gpu" and version in _SLOW_JAXLIB and process_index() == 0:
        _LOG.warning(
            "jaxlib %s adds to arrays on GPUs hundreds of times slower than other versions, which "
            "RoIAlign's gradient consists of: install 0.11.1 or newer, or 0.10.1",
            version,
        )
