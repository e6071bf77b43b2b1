"""The variables that a new run starts from: random ones, those of a backbone, or of a detector."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from jaxseg import predictor, weights_file, zoo
from jaxseg.commands.settings import changed_fields, flatten
from jaxseg.data.coco.categories import coco_categories
from jaxseg.experiment import Experiment, config_modules, to_json
from jaxseg.model import Model, ModelConfig, Variables
from jaxseg.nn.build import split_frozen_backbone
from jaxseg.nn.freezing import merge_frozen
from jaxseg.training.step import init_variables

Path = tuple[str, ...]
_LOG = logging.getLogger(__name__)


class Origin(NamedTuple):
    """A trained detector to start from."""

    arrays: Mapping[Path, np.ndarray]
    """Its parameters and statistics by path, none of them in the collection `"frozen"`."""
    class_names: Sequence[str]
    """Things first, then stuff."""
    num_things: int


class Transfer(NamedTuple):
    """What a new run takes from an `Origin`, as names of arrays."""

    taken: Sequence[str]
    per_class: Sequence[str]
    """New, since the classes differ."""
    misshapen: Sequence[str]
    """New, since the origin's have another shape."""
    missing: Sequence[str]
    """New, since the origin has none."""
    unused: Sequence[str]
    """The origin's, of which the model has none."""


class Start(NamedTuple):
    """What a new run starts from, as far as it was read before the data."""

    origin: Origin | None = None
    backbone: Variables | None = None


def read_start(experiment: Experiment) -> Start:
    """Read the file that a new run starts from, and check that it fits the model.

    A workdir is read later, by all processes together.

    Raises FileNotFoundError or ValueError if the file or workdir does not exist or does not fit.
    """
    field = "pretrained" if experiment.init_from is None else "init_from"
    named = getattr(experiment, field)
    if named is None:
        return Start()
    path = pathlib.Path(named).expanduser()
    if not path.exists():
        flag = field.replace("_", "-")
        raise FileNotFoundError(
            f"no checkpoint file {path}: name one with --{flag} FILE, or start from random weights "
            f"with --{flag} None"
        )
    if field == "pretrained":
        return Start(backbone=zoo.load_resnet_file(path, experiment.model.backbone))
    return Start() if path.is_dir() else Start(origin=read_origin(path, experiment))


def initial_variables(
    experiment: Experiment,
    model: Model,
    start: Start,
    image_shape: tuple[int, ...],
    class_names: Sequence[str],
) -> Variables:
    """Return the variables of a new run.

    Random ones of the seed, in which those of `experiment.init_from` or else the backbone of
    `experiment.pretrained` take the place of what fits.

    Args:
        experiment: the experiment.
        model: its model.
        start: what was read before.
        image_shape: `(1, H, W, 3)` of a padded image.
        class_names: the names of the data's categories, in the order of labels.
    """
    variables = init_variables(model, image_shape, experiment.train.seed)
    if experiment.init_from is not None:
        path = pathlib.Path(experiment.init_from).expanduser()
        origin = start.origin or read_origin(path, experiment)
        values, transfer = fit(variables, origin, experiment.model, class_names)
        _log(transfer, path)
        return values
    backbone = start.backbone or read_start(experiment).backbone
    return variables if backbone is None else zoo.replace_backbone(variables, backbone)


def read_origin(path: pathlib.Path, experiment: Experiment) -> Origin:
    """Read the detector to start from: a workdir, or a file of exported or published weights.

    Of a workdir the newest checkpoint is read, with the EMA of the parameters if it keeps one.
    Raises ValueError or FileNotFoundError if it cannot be read.
    """
    if not path.is_dir() and not weights_file.is_exported(path):
        # Only arrays of the model's number of classes fit, and a file does not name its classes.
        categories = coco_categories(experiment.model)
        arrays = zoo.load_fitting(path, experiment.model)
        names = [category.name for category in categories]
        return Origin(arrays, names, experiment.model.num_classes)
    read = predictor.restore if path.is_dir() else weights_file.read_model
    trained = read(path, allow_modules=config_modules(experiment))
    before, now = (flatten(to_json(e.model)) for e in (trained.experiment, experiment))
    changed = changed_fields(before, now, ["num_classes", "num_stuff_classes"])
    if changed:
        _LOG.warning("the model differs from that of %s: %s", path, ", ".join(map(str, changed)))
    arrays = traverse_util.flatten_dict(merge_frozen(trained.variables))
    names = [category.name for category in trained.categories]
    return Origin(arrays, names, trained.experiment.model.num_classes)


def fit(
    variables: Variables, origin: Origin, config: ModelConfig, class_names: Sequence[str]
) -> tuple[Variables, Transfer]:
    """Return a model's variables with the origin's arrays where they fit, and what was taken.

    An array fits if it has the same path and shape. Arrays whose shape depends on the number of
    things, or of stuff, also need the same ones in the same order.

    Raises ValueError if no array fits.
    """
    own = traverse_util.flatten_dict(merge_frozen(variables))
    depends: set[Path] = set()
    now, before = list(class_names), list(origin.class_names)
    if now[: config.num_classes] != before[: origin.num_things]:
        depends |= per_class_paths(config)
    if now[config.num_classes :] != before[origin.num_things :]:
        depends |= per_class_paths(config, "num_stuff_classes")
    groups: dict[str, list[Path]] = {name: [] for name in Transfer._fields}
    for path, value in own.items():
        if path in depends:
            groups["per_class"].append(path)
        elif path not in origin.arrays:
            groups["missing"].append(path)
        elif origin.arrays[path].shape != value.shape:
            groups["misshapen"].append(path)
        else:
            groups["taken"].append(path)
    groups["unused"] = sorted(origin.arrays.keys() - own.keys())
    if not groups["taken"]:
        raise ValueError("none of its arrays has the name and shape of one of the model's")
    fitted = own | {path: origin.arrays[path] for path in groups["taken"]}
    values = split_frozen_backbone(config.backbone, traverse_util.unflatten_dict(fitted))
    names = {name: [".".join(path[1:]) for path in paths] for name, paths in groups.items()}
    return values, Transfer(**names)


def per_class_paths(config: ModelConfig, field: str = "num_classes") -> set[Path]:
    """Return the paths of the arrays whose shape depends on a number of classes.

    The number is that of things, or of stuff with the field `num_stuff_classes`, on which no array
    depends of a model that is not panoptic.
    """
    number = getattr(config, field, None)
    if number is None:
        return set()
    other = dataclasses.replace(config, **{field: number + 1})  # type: ignore[type-var]
    shapes, other_shapes = (
        {path: leaf.shape for path, leaf in traverse_util.flatten_dict(abstract(c)).items()}
        for c in (config, other)
    )
    return {path for path, shape in shapes.items() if other_shapes[path] != shape}


def abstract(config: ModelConfig) -> dict[str, Any]:
    """Return the shapes of a model's variables, none of them in the collection `"frozen"`."""
    init = config.build().init
    return merge_frozen(jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3))))


def _log(transfer: Transfer, path: pathlib.Path) -> None:
    _LOG.info("%d arrays are taken from %s", len(transfer.taken), path)
    reasons = {
        "per_class": "start anew, since the classes differ",
        "misshapen": "start anew, since their shapes differ",
        "missing": "start anew, since it has none of their names and shapes",
        "unused": "of it are not used",
    }
    for field, reason in reasons.items():
        names = getattr(transfer, field)
        if names:
            _LOG.info("%d arrays %s: %s", len(names), reason, ", ".join(names))
