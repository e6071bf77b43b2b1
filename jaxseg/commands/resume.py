"""Check whether a workdir's run can be resumed or extended by an experiment, and fork runs."""

import contextlib
import logging
import pathlib
from collections.abc import Collection
from typing import Any

import jax

from jaxseg.commands.settings import DATA_NOTE, Change, changed_fields, flatten
from jaxseg.distributed import allgather_json
from jaxseg.experiment import Experiment, config_modules, from_json, to_json
from jaxseg.parallel import replicate, to_global
from jaxseg.predictor import state_shapes
from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from jaxseg.training.optimizer import OptimizerConfig, make_schedule

CHANGEABLE_ON_RESUME = (
    "data.source.path",
    "data.source.images",
    "data.source.semantic_maps",
    "data.source.allow_outside_files",
    "data.num_threads",
    "data.num_workers",
    "data.space_to_depth",
    "model.backbone.remat",
    "model.roi_align.method",
    "pretrained",
    "init_from",
    "train.checkpoint_every",
    "train.eval_every",
    "train.max_to_keep",
    "train.log_every",
    "train.parallel",
    "train.grad_accum_steps",
    "train.max_consecutive_nonfinite",
)
"""Fields that may differ when a run is resumed: they change where and how it is computed, not what
it learns. `pretrained` and `init_from` are read at the start only. `grad_accum_steps` and `remat`
let the same step fit on fewer devices (batch norm, where it is trained, then sees smaller
microbatches).

`data.source.ignore_image_ids` may name more images than before, so that a run can go on without
images that went bad. From there on it draws the remaining images in another order, the same for
each run that is resumed at that step without these images. `train.steps` may grow."""
_IGNORED_IDS = "data.source.ignore_image_ids"

_LOG = logging.getLogger(__name__)


def check_resumable(
    workdir: pathlib.Path, metadata: dict[str, Any], allow_modules: Collection[str] = ()
) -> bool:
    """Return whether `workdir` holds a run, to be resumed with the experiment of `metadata`.

    A run may be extended: `train.steps` may be larger than it was.

    Args:
        workdir: the workdir.
        metadata: the run metadata of the experiment.
        allow_modules: modules of config classes, besides jaxseg's own.

    Raises ValueError if the run is of another experiment or of other data.
    """
    # A shared disk may show a new checkpoint to some processes late.
    found = allgather_json(_saved_run(workdir))
    step, saved = next((run for run in found if run is not None), (None, None))
    if step is None or saved is None:
        return False
    before, now = _comparable(saved, metadata, allow_modules)
    ids, ids_before = (set(side.get(f"experiment.{_IGNORED_IDS}", ())) for side in (now, before))
    allowed = [*CHANGEABLE_ON_RESUME, *([_IGNORED_IDS] if ids >= ids_before else [])]
    steps, steps_before = (side.get("experiment.train.steps", 0) for side in (now, before))
    extended = ["train.steps"] if steps > steps_before else []
    changed = changed_fields(before, now, [*allowed, *extended])
    if changed:
        raise ValueError(
            f"{workdir} holds a run with a different config: {', '.join(map(str, changed))}. "
            f"Use the same values{DATA_NOTE} to resume it, or another --workdir"
        )
    if extended:
        _log_extension(step, steps_before, steps, from_json(metadata["experiment"], allow_modules))
    return True


def _saved_run(workdir: pathlib.Path) -> tuple[int, dict[str, Any]] | None:
    """Return the newest step that this process sees and the metadata of the run; None if none."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        return None if step is None else (step, checkpoints.metadata())


def _comparable(
    saved: dict[str, Any], metadata: dict[str, Any], allow_modules: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata of a saved run and of an experiment by field."""
    # Read and written again, a config gets the defaults of fields that are newer than the run.
    with contextlib.suppress(ValueError):  # of other config classes: they differ by name
        saved["experiment"] = to_json(from_json(saved["experiment"], allow_modules))
    before = flatten({name: value for name, value in saved.items() if name in metadata})
    return before, flatten(metadata)


def _log_extension(step: int, before: int, steps: int, experiment: Experiment) -> None:
    optimizer: OptimizerConfig = experiment.train.optimizer
    rates = [float(make_schedule(optimizer, total)(step)) for total in (before, steps)]
    _LOG.info(
        "the run is extended from %d to %d steps. Its learning rate is from here on that of a run "
        "of %d steps: %.4g at step %d, where it was %.4g (schedule %r)",
        before,
        steps,
        steps,
        rates[1],
        step,
        rates[0],
        optimizer.schedule,
    )


FIXED_ON_FORK = ("experiment.model", "experiment.train.optimizer.name", "categories")
"""What a fork keeps, besides whether there is an EMA: it decides the arrays of the state and the
meaning of the labels."""


def fork_run(
    origin: pathlib.Path, workdir: pathlib.Path, experiment: Experiment, metadata: dict[str, Any]
) -> None:
    """Save the newest state of another run as the first checkpoint of `workdir`; a collective.

    The parameters, the optimiser's state, the EMA and the number of steps go on; all else is the
    experiment's, such as the data, the learning rate and the seed.

    Args:
        origin: the workdir of the other run, which is not changed.
        workdir: the workdir of the new run, without checkpoints.
        experiment: the experiment of the new run.
        metadata: its run metadata.

    Raises:
        FileNotFoundError: `origin` holds no checkpoint.
        ValueError: the experiment has another model, optimiser, EMA or categories, or its steps
            are done.
    """
    with open_checkpoints(origin) as checkpoints:
        before, now = _comparable(checkpoints.metadata(), metadata, config_modules(experiment))
        changed = [change for change in changed_fields(before, now, ()) if _is_fixed(change.field)]
        decays = [side.get("experiment.train.ema_decay") for side in (before, now)]
        if (decays[0] is None) != (decays[1] is None):
            changed.append(Change("train.ema_decay", *decays))
        if changed:
            raise ValueError(
                f"a fork of {origin} keeps its model, optimizer, EMA and categories, but the "
                f"experiment has others: {', '.join(map(str, changed))}. Use the same, or start "
                f"from its weights alone by --init-from {origin}"
            )
        state = checkpoints.restore(state_shapes(experiment))
    step = int(state.step)
    if step >= experiment.train.steps:
        raise ValueError(
            f"{origin} is at step {step} and the fork ends at step {experiment.train.steps}: set "
            "--train.steps to more"
        )
    devices = jax.device_count()
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(step, to_global(replicate(state, devices), devices), metadata)
    differing = changed_fields(before, now, CHANGEABLE_ON_RESUME)
    _LOG.info(
        "forked step %d of %s into %s: %s", step, origin, workdir, ", ".join(map(str, differing))
    )


def _is_fixed(field: str) -> bool:
    """Return whether a fork keeps a field."""
    if field in CHANGEABLE_ON_RESUME:
        return False
    fixed = [name.removeprefix("experiment.") for name in FIXED_ON_FORK]
    return any(field == name or field.startswith(f"{name}.") for name in fixed)
