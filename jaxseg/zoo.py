"""The jobs behind `jaxseg weights`: published checkpoints in, and ours out again.

A published Mask R-CNN becomes a workdir that `eval` and `predict` can use; an ImageNet ResNet
becomes a checked file that a training starts from (`jaxseg train ... --pretrained FILE`).
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import data, weights
from jaxseg.data.coco_categories import COCO_CATEGORIES, COCO_IDS
from jaxseg.experiment import Experiment, override
from jaxseg.jobs import load, run_record
from jaxseg.model import ModelConfig
from jaxseg.models.published import BY_NAME, RESNETS
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.progress import say
from jaxseg.training.step import start_state

RESAMPLING: dict[str, data.Resampling] = {
    "maskrcnn": "torchvision",
    "detectron2": "pillow",
    "mmdet": "opencv",
}
"""How each zoo, the first part of its names, resizes images."""


def import_weights(
    file: pathlib.Path, architecture: str, out: pathlib.Path, overrides: Sequence[str] = ()
) -> None:
    """A published checkpoint as a workdir or, for a ResNet, as a `.safetensors` file at `out`.

    `architecture` is a name of `jaxseg.models.published`; `overrides` change fields of a Mask
    R-CNN as they do of an experiment (`--model.num-classes 3`). Raises ValueError if the file
    does not fit or `out` exists, before anything is written.
    """
    if architecture in RESNETS:
        if overrides:
            raise ValueError(f"{architecture} has no fields to change: {' '.join(overrides)}")
        _import_resnet(file, architecture, out)
    elif architecture in BY_NAME:
        _import_detector(file, architecture, out, overrides)
    else:
        known = ", ".join([*BY_NAME, *RESNETS])
        raise ValueError(f"no architecture {architecture!r}: choose one of {known}")


def _import_resnet(file: pathlib.Path, architecture: str, out: pathlib.Path) -> None:
    if out.suffix != ".safetensors" or out.exists():
        raise ValueError(f"{out} must be a new file that ends in .safetensors")
    arrays = weights.resnet_to_torchvision(
        weights.load_resnet_file(file, RESNETS[architecture]), RESNETS[architecture]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    weights.write_safetensors(out, arrays)
    say(f"imported {architecture}, {sum(map(np.size, arrays.values())):,} numbers, into {out}")


def _import_detector(
    file: pathlib.Path, architecture: str, out: pathlib.Path, overrides: Sequence[str]
) -> None:
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds checkpoints already: choose another --out")
    zoo = architecture.partition("_")[0]
    experiment = override(_coco_experiment(BY_NAME[architecture], RESAMPLING[zoo]), overrides)
    config: Any = experiment.model
    variables = weights.load_checkpoint_file(file, config)
    optimizer = make_optimizer(experiment.train.optimizer, experiment.train.steps)
    record = run_record(experiment, _published_categories(config.num_classes))
    with Checkpoints(out) as checkpoints:
        checkpoints.save(0, start_state(variables, optimizer), record)
    count = sum(np.size(x) for x in jax.tree.leaves(variables["params"]))
    say(f"imported {architecture} with {count:,} trainable parameters into {out}")


def _coco_experiment(model: ModelConfig, resampling: data.Resampling) -> Experiment:
    """The published models' own way with images: shorter side 800, longer at most 1333."""
    source = data.CocoFolder("coco", train="train2017", val="val2017")
    config = data.DataConfig(source, (1344, 1344), (800, 1333), resampling=resampling)
    return Experiment(model, config, loop.TrainConfig())


def _published_categories(num_classes: int) -> Sequence[data.Category]:
    """COCO's where the number of classes is COCO's; a checkpoint does not name its own."""
    for categories in (COCO_IDS, COCO_CATEGORIES):
        if num_classes == len(categories):
            return categories
    return [data.Category(number, f"class {number}") for number in range(1, num_classes + 1)]


def export_weights(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """The newest checkpoint as `.safetensors` under torchvision's names."""
    trained = load(workdir)
    config: Any = trained.experiment.model
    weights.write_safetensors(out, weights.to_torchvision(trained.variables, config))
    say(f"wrote step {trained.step} of {workdir} to {out}")
