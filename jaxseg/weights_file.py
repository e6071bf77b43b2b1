"""Read a whole model from one file of weights: published ones, or those that jaxseg exported.

A file that `jaxseg weights export` wrote holds its experiment and categories as JSON; published
weights do not say what they are, so the name of the model says it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from jaxseg import data, zoo
from jaxseg.data.coco.categories import coco_categories
from jaxseg.experiment import Experiment
from jaxseg.model import PanopticModelConfig
from jaxseg.predictor import TrainedModel, parse_metadata
from jaxseg.training.loop import TrainConfig

KEY = "jaxseg"
"""The entry of a `.safetensors` file's metadata that describes the model."""


def read_model(
    path: pathlib.Path, name: str | None = None, allow_modules: Collection[str] = ()
) -> TrainedModel:
    """Return the model of a file of weights.

    Args:
        path: the file.
        name: the name of a published model, a key of `zoo.MODELS`; None for a file that
            `jaxseg weights export` wrote.
        allow_modules: modules whose config classes the file may name, besides jaxseg's own.

    Raises FileNotFoundError or ValueError, as `describe` and `zoo.load_checkpoint_file` do.
    """
    experiment, categories = describe(path, name, allow_modules)
    variables = zoo.load_checkpoint_file(path, experiment.model)
    step = 0 if name is not None else int(_stored(path).get("step", 0))
    return TrainedModel(experiment, categories, experiment.model.build(), variables, step)


def is_exported(path: pathlib.Path) -> bool:
    """Return whether `jaxseg weights export` wrote a file.

    Raises FileNotFoundError, or ValueError if the file is corrupt.
    """
    return bool(_stored(path))


def describe(
    path: pathlib.Path, name: str | None = None, allow_modules: Collection[str] = ()
) -> tuple[Experiment, Sequence[data.Category]]:
    """Return the experiment and the categories of a file of weights; see `read_model`.

    Raises ValueError for an unknown name, and for a file without a description if `name` is None.
    """
    if name is not None:
        if name not in zoo.MODELS:
            raise ValueError(f"no published model {name!r}: choose one of {', '.join(zoo.MODELS)}")
        experiment = zoo_experiment(zoo.MODELS[name])
        return experiment, coco_categories(experiment.model)
    stored = _stored(path)
    if not stored:
        raise ValueError(
            f"{path} does not say which model its weights are of: name it (model=NAME, or --model "
            f"NAME), one of {', '.join(zoo.MODELS)}"
        )
    try:
        experiment, categories = parse_metadata(stored, path, allow_modules)
        if not isinstance(experiment, Experiment):
            raise TypeError("it is no experiment")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its description of the model is invalid: {error!r}") from error
    return experiment, categories


def zoo_experiment(record: zoo.ZooModel) -> Experiment:
    """Return an experiment that evaluates a published model on COCO with its own preprocessing."""
    panoptic = isinstance(record.config, PanopticModelConfig)
    source = data.CocoFolder("coco", train="train2017", val="val2017", panoptic=panoptic)
    config = data.DataConfig(source, **dataclasses.asdict(record.preprocessing))
    return Experiment(record.config, config, TrainConfig())


def _stored(path: pathlib.Path) -> dict[str, Any]:
    """Return the description that a file holds; {} if it has none."""
    text = zoo.read_metadata(path).get(KEY, "{}")
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its description of the model is not valid JSON") from error
    return stored if isinstance(stored, dict) else {}
