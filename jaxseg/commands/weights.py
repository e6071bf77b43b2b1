"""`jaxseg weights import` and `export`: published checkpoints in, trained models out.

A published detector becomes a workdir that `eval` and `predict` can use; an ImageNet ResNet
becomes a checked file that a training starts from (`jaxseg train ... --pretrained FILE`).
"""

import dataclasses
import logging
import pathlib
from collections.abc import Collection, Sequence

import jax
import numpy as np

from jaxseg import data, zoo
from jaxseg.commands.override import override
from jaxseg.commands.train import run_metadata
from jaxseg.data.coco.categories import coco_categories
from jaxseg.experiment import Experiment
from jaxseg.files import prepare_output_file, prepare_output_folder
from jaxseg.predictor import restore
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.step import start_state

_LOG = logging.getLogger(__name__)


def import_weights(
    file: pathlib.Path, name: str, out: pathlib.Path, overrides: Sequence[str] = ()
) -> None:
    """Convert a published checkpoint to a workdir or, for a ResNet, to a `.safetensors` file.

    `name` is a key of `jaxseg.zoo.MODELS` or `RESNETS`; `overrides` change fields of a detector as
    they do of an experiment (`--model.num-classes 3`). Raises ValueError if the file does not fit
    or `out` exists, before anything is written.
    """
    if name in zoo.RESNETS:
        if overrides:
            raise ValueError(f"{name} has no fields to change: {' '.join(overrides)}")
        _import_resnet(file, name, out)
    elif name in zoo.MODELS:
        _import_detector(file, zoo.MODELS[name], out, overrides)
    else:
        known = ", ".join([*zoo.MODELS, *zoo.RESNETS])
        raise ValueError(f"no published model {name!r}: choose one of {known}")


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
    file: pathlib.Path, record: zoo.ZooModel, out: pathlib.Path, overrides: Sequence[str]
) -> None:
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds checkpoints already: choose another --out")
    prepare_output_folder(out.parent)
    experiment = override(zoo_experiment(record), overrides)
    if (experiment.pretrained, experiment.init_from) != (None, None):
        raise ValueError(
            "--pretrained and --init-from are for training; the weights imported are the file's"
        )
    variables = zoo.load_checkpoint_file(file, experiment.model)
    optimizer = make_optimizer(experiment.train.optimizer, experiment.train.steps)
    metadata = run_metadata(experiment, coco_categories(experiment.model.num_classes))
    with Checkpoints(out) as checkpoints:
        checkpoints.save(0, start_state(variables, optimizer), metadata)
    size = f"{_size(variables['params']):,}"
    _LOG.info("imported %s with %s trainable parameters into %s", record.name, size, out)


def _size(tree: object) -> int:
    return sum(np.size(x) for x in jax.tree.leaves(tree))


def zoo_experiment(record: zoo.ZooModel) -> Experiment:
    """Return an experiment that evaluates a published model on COCO with its own preprocessing."""
    source = data.CocoFolder("coco", train="train2017", val="val2017")
    config = data.DataConfig(source, **dataclasses.asdict(record.preprocessing))
    return Experiment(record.config, config, loop.TrainConfig())


def export_weights(
    workdir: pathlib.Path, out: pathlib.Path, *, allow_modules: Collection[str] = ()
) -> None:
    """Write the newest checkpoint as `.safetensors` under torchvision's names.

    The checkpoint may name config classes of jaxseg and of `allow_modules`. Raises ValueError if
    torchvision has no names for the model.
    """
    prepare_output_file(out)
    trained = restore(workdir, allow_modules=allow_modules)
    try:
        state = zoo.to_torchvision(trained.variables, trained.experiment.model)
    except ValueError as error:
        raise ValueError(f"{workdir} cannot be exported: {error}") from error
    zoo.write_safetensors(out, state)
    _LOG.info("wrote step %d of %s to %s", trained.step, workdir, out)
