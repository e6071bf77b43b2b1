"""The jobs behind `jaxseg weights`: published checkpoints in, and ours out again.

A published detector becomes a workdir that `eval` and `predict` can use; an ImageNet ResNet
becomes a checked file that a training starts from (`jaxseg train ... --pretrained FILE`).
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxseg import data, zoo
from jaxseg.commands.train import run_record
from jaxseg.data.coco.categories import COCO_CATEGORIES, COCO_IDS
from jaxseg.experiment import Experiment, override
from jaxseg.log import say
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.predictor import load
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.step import start_state
from jaxseg.zoo.published import BY_NAME, RESNETS

RESIZE_BACKENDS: dict[str, data.ResizeBackend] = {
    "maskrcnn": "torch",
    "detectron2": "pillow",
    "mmdet": "cv2",
    "solo": "cv2",
    "adelaidet": "pillow",
}
"""How each zoo, the first part of its names, resizes images."""


def import_weights(
    file: pathlib.Path, architecture: str, out: pathlib.Path, overrides: Sequence[str] = ()
) -> None:
    """A published checkpoint as a workdir or, for a ResNet, as a `.safetensors` file at `out`.

    `architecture` is a name of `jaxseg.zoo.published`; `overrides` change fields of a
    detector as they do of an experiment (`--model.num-classes 3`). Raises ValueError if the file
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
    state, config = zoo.read_state_dict(file), RESNETS[architecture]
    stated = {name: state[name] for name in ("bn_eps",) if name in state}
    if stated:
        config = dataclasses.replace(config, norm_epsilon=float(stated["bn_eps"]))
    try:
        variables = zoo.load_resnet(state, config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    arrays = zoo.resnet_to_torchvision(variables, config) | stated
    out.parent.mkdir(parents=True, exist_ok=True)
    zoo.write_safetensors(out, arrays)
    say(f"imported {architecture}, {sum(map(np.size, arrays.values())):,} numbers, into {out}")


def _import_detector(
    file: pathlib.Path, architecture: str, out: pathlib.Path, overrides: Sequence[str]
) -> None:
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds checkpoints already: choose another --out")
    experiment = override(_coco_experiment(architecture), overrides)
    if experiment.pretrained is not None:
        raise ValueError("--pretrained is for training; the weights imported are those of the file")
    config: Any = experiment.model
    variables = zoo.load_checkpoint_file(file, config)
    optimizer = make_optimizer(experiment.train.optimizer, experiment.train.steps)
    record = run_record(experiment, _published_categories(config.num_classes))
    with Checkpoints(out) as checkpoints:
        checkpoints.save(0, start_state(variables, optimizer), record)
    count = sum(np.size(x) for x in jax.tree.leaves(variables["params"]))
    say(f"imported {architecture} with {count:,} trainable parameters into {out}")


def _coco_experiment(architecture: str) -> Experiment:
    """The published model's own way with images: shorter side 800, longer at most 1333, and 448
    and 768 for light ones."""
    source = data.CocoFolder("coco", train="train2017", val="val2017")
    light = "_light_" in architecture
    config = data.DataConfig(
        source,
        buckets=((448, 768), (768, 448)) if light else ((800, 1344), (1344, 800)),
        min_size=448 if light else 800,
        max_size=768 if light else 1333,
        resize_backend=RESIZE_BACKENDS[architecture.partition("_")[0]],
    )
    return Experiment(BY_NAME[architecture], config, loop.TrainConfig())


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
    if not isinstance(config, MaskRCNNConfig):
        raise ValueError(
            f"{workdir} holds a {type(config).__name__}, for which torchvision has no names; only "
            "a Mask R-CNN can be exported"
        )
    zoo.write_safetensors(out, zoo.to_torchvision(trained.variables, config))
    say(f"wrote step {trained.step} of {workdir} to {out}")
