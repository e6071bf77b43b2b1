"""`jaxseg weights import` and `export`: published checkpoints in, trained models out.

A published detector becomes a workdir that `eval` and `predict` can use; an ImageNet ResNet
becomes a checked file that a training starts from (`jaxseg train ... --pretrained FILE`).
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Literal

import jax
import numpy as np

from jaxseg import weights_file, zoo
from jaxseg.commands.override import override
from jaxseg.commands.train import run_metadata
from jaxseg.data.coco.categories import coco_categories
from jaxseg.files import prepare_output_file, prepare_output_folder
from jaxseg.model import num_labels
from jaxseg.predictor import restore
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.step import start_state

_LOG = logging.getLogger(__name__)
Names = Literal["torchvision", "jaxseg"]


def import_weights(
    file: pathlib.Path,
    name: str | None,
    out: pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    allow_modules: Collection[str] = (),
) -> None:
    """Convert a published checkpoint to a workdir or, for a ResNet, to a `.safetensors` file.

    `name` is a key of `jaxseg.zoo.MODELS` or `RESNETS`, None for a file of `export_weights`;
    `overrides` change fields of a detector as they do of an experiment (`--model.num-classes 3`);
    such a file may name config classes of jaxseg and of `allow_modules`. Raises ValueError if the
    file does not fit or `out` exists, before anything is written.
    """
    if name in zoo.RESNETS:
        if overrides:
            raise ValueError(f"{name} has no fields to change: {' '.join(overrides)}")
        _import_resnet(file, name, out)
    else:
        _import_detector(file, name, out, overrides, allow_modules)


def _import_resnet(file: pathlib.Path, name: str, out: pathlib.Path) -> None:
    if out.suffix != ".safetensors" or out.exists():
        raise ValueError(f"{out} must be a new file that ends in .safetensors")
    prepare_output_file(out)
    state, config = zoo.read_state_dict(file), zoo.RESNETS[name]
    stated = {key: state[key] for key in ("bn_eps",) if key in state}
    if stated:
        config = dataclasses.replace(config, norm_epsilon=float(stated["bn_eps"]))
    try:
        variables = zoo.load_resnet(state, config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    arrays = zoo.resnet_to_torchvision(variables, config) | stated
    zoo.write_safetensors(out, arrays)
    _LOG.info("imported %s, %s numbers, into %s", name, f"{_size(arrays):,}", out)


def _import_detector(
    file: pathlib.Path,
    name: str | None,
    out: pathlib.Path,
    overrides: Sequence[str],
    allow_modules: Collection[str],
) -> None:
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds checkpoints already: choose another --out")
    prepare_output_folder(out.parent)
    described, categories = weights_file.describe(file, name, allow_modules)
    experiment = override(described, overrides)
    if (experiment.pretrained, experiment.init_from) != (None, None):
        raise ValueError(
            "--pretrained and --init-from are for training; the weights imported are the file's"
        )
    variables = zoo.load_checkpoint_file(file, experiment.model)
    optimizer = make_optimizer(experiment.train.optimizer, experiment.train.steps)
    if num_labels(experiment.model) != len(categories):
        categories = coco_categories(experiment.model)
    metadata = run_metadata(experiment, categories)
    with Checkpoints(out) as checkpoints:
        checkpoints.save(0, start_state(variables, optimizer), metadata)
    size = f"{_size(variables['params']):,}"
    _LOG.info("imported %s with %s trainable parameters into %s", name or file, size, out)


def _size(tree: object) -> int:
    return sum(np.size(x) for x in jax.tree.leaves(tree))


def export_weights(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    names: Names | None = None,
    allow_modules: Collection[str] = (),
) -> None:
    """Write the newest checkpoint as `.safetensors`, with its experiment and categories.

    Args:
        workdir: the workdir of a run.
        out: the new file.
        names: the names of the arrays: torchvision's, or jaxseg's own, which every model has. None
            for torchvision's where it has the model.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.

    Raises ValueError if `out` does not end in `.safetensors`, or if `names` is "torchvision" and it
    has no names for the model.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors, the format of the file")
    prepare_output_file(out)
    trained = restore(workdir, allow_modules=allow_modules)
    try:
        state = zoo.to_torchvision(trained.variables, trained.experiment.model)
        written = "torchvision"
    except ValueError as error:
        if names == "torchvision":
            raise ValueError(
                f"{workdir} cannot be exported with torchvision's names: {error}. "
                "jaxseg's own are written by --names jaxseg"
            ) from error
        written = "jaxseg"
    if "jaxseg" in (names, written):
        state, written = zoo.to_own_names(trained.variables), "jaxseg"
    metadata = run_metadata(trained.experiment, trained.categories) | {"step": trained.step}
    zoo.write_safetensors(out, state, {weights_file.KEY: json.dumps(metadata)})
    _LOG.info("wrote step %d of %s to %s, with %s's names", trained.step, workdir, out, written)
