"""Load whole models and backbones from state dicts, and export them."""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import traverse_util

from jaxseg.model import ModelConfig, Variables
from jaxseg.models.cascade_rcnn import CascadeRCNNConfig
from jaxseg.models.htc import HTCConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig
from jaxseg.models.point_rend import PointRendConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.build import split_frozen_backbone
from jaxseg.nn.freezing import FROZEN, merge_frozen
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.zoo import cascade_rcnn, htc, mask_rcnn, panoptic_fpn, point_rend, solov2
from jaxseg.zoo.engine import (
    VECTOR,
    Arrays,
    Entry,
    Path,
    export_state,
    import_fitting,
    import_state,
)
from jaxseg.zoo.files import read_state_dict
from jaxseg.zoo.record import NameTable, ZooModel
from jaxseg.zoo.resnet import (
    BACKBONE,
    detectron2_resnet,
    is_unused_by_resnet,
    torchvision_resnet,
)

T = TypeVar("T")
_UNUSED = re.compile(
    r".*\.num_batches_tracked|pixel_(mean|std)|proposal_generator\.anchor_generator\..*"
)
"""Arrays in published checkpoints that no model has: counters and constants."""

MODELS: dict[str, ZooModel] = {
    record.name: record
    for module in (mask_rcnn, cascade_rcnn, htc, panoptic_fpn, point_rend, solov2)
    for record in module.RECORDS
}
"""The published models by name."""

TABLES: dict[type[ModelConfig], Mapping[str, NameTable]] = {
    CascadeRCNNConfig: cascade_rcnn.TABLES,
    HTCConfig: htc.TABLES,
    MaskRCNNConfig: mask_rcnn.TABLES,
    PanopticFPNConfig: panoptic_fpn.TABLES,
    PointRendConfig: point_rend.TABLES,
    SOLOv2Config: solov2.TABLES,
}
"""The names of each model's arrays by codebase."""

OWN = "jaxseg"
"""The codebase of files with jaxseg's own names, which every model has."""


def load_torchvision(state_dict: Arrays, config: ModelConfig) -> dict[str, Any]:
    """Return variables from torchvision's state dict of NumPy arrays, with old names or new.

    `config` must have `predict_background=True`, and `num_classes` without the background. Raises
    ValueError that lists missing, unused and misshapen arrays, or if torchvision has no such model.
    """
    return _load(state_dict, config, "torchvision")


def load_mmdet(state_dict: Arrays, config: ModelConfig) -> dict[str, Any]:
    """Return variables from MMDetection's state dict; errors as `load_torchvision`."""
    return _load(state_dict, config, "mmdet")


def load_detectron2(state_dict: Arrays, config: ModelConfig) -> dict[str, Any]:
    """Return variables from Detectron2's state dict; errors as `load_torchvision`."""
    return _load(state_dict, config, "detectron2")


def load_adelaidet(state_dict: Arrays, config: ModelConfig) -> dict[str, Any]:
    """Return variables from AdelaiDet's state dict; errors as `load_torchvision`."""
    return _load(state_dict, config, "adelaidet")


def load_solo(state_dict: Arrays, config: ModelConfig) -> dict[str, Any]:
    """Return variables from the state dict of SOLO's authors; errors as `load_torchvision`."""
    return _load(state_dict, config, "solo")


def load_checkpoint_file(path: pathlib.Path | str, config: ModelConfig) -> dict[str, Any]:
    """Return variables from a `.pth`, `.pkl`, `.safetensors` or `.npz` of any codebase.

    The codebase, which may be jaxseg itself (`to_own_names`), is recognised by the names of the
    arrays. Nothing in the file is executed (see
    `jaxseg.zoo.files`). Errors, which name the file, are those of `load_torchvision`.
    """
    return _read(path, lambda state: _load(state, config, _codebase(state, config)))


def load_fitting(path: pathlib.Path | str, config: ModelConfig) -> dict[Path, np.ndarray]:
    """Return the arrays of a published checkpoint whose names and shapes are the model's, by path.

    It need not have all arrays of the model, nor the model's number of classes. Raises ValueError,
    which names the file, if the names are those of no codebase that has the model.
    """

    def load(state: Arrays) -> dict[Path, np.ndarray]:
        table = _table(config, _codebase(state, config))
        state = {table.current_name(name): array for name, array in state.items()}
        return import_fitting(state, list(table.entries(config)), _like(config))

    return _read(path, load)


def load_resnet(state_dict: Arrays, config: ResNetConfig) -> dict[str, Any]:
    """Return variables of `jaxseg.nn.resnet.ResNet` from a classifier's state dict.

    The names are torchvision's, which timm shares, or those of Detectron2's backbones. The
    classifier itself is left out. Raises ValueError as `load_torchvision`, and where the file
    states another epsilon (`bn_eps`) than `config.norm_epsilon`.
    """
    if config.norm == "group":
        raise ValueError("a ResNet with batch norm cannot be read into one with norm='group'")
    stated = float(state_dict.get("bn_eps", config.norm_epsilon))
    if not np.isclose(stated, config.norm_epsilon):
        raise ValueError(
            f"its batch norm has an epsilon of {stated:g}, the config's norm_epsilon is "
            f"{config.norm_epsilon:g}: set it to {stated:g}"
        )
    table = detectron2_resnet if "stem.conv1.weight" in state_dict else torchvision_resnet
    init = ResNet(config).init
    shapes = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32), np.full((1, 2), 32, np.int32)
    like = jax.eval_shape(lambda *x: init(jax.random.key(0), *x, train=False), *shapes)
    entries = list(table(config, root=()))
    if not any(entry.name in state_dict for entry in entries):
        first = ", ".join(list(state_dict)[:3])
        raise ValueError(
            f"none of its arrays has a ResNet's name, such as {entries[0].name}; its first are "
            f"{first}. A run starts from a detector by --init-from"
        )
    return import_state(state_dict, entries, like, is_unused_by_resnet)


def load_resnet_file(path: pathlib.Path | str, config: ResNetConfig) -> dict[str, Any]:
    """Apply `load_resnet` to a file that `read_state_dict` reads; errors name the file."""
    return _read(path, lambda state: load_resnet(state, config))


def replace_backbone(variables: Variables, backbone: Variables) -> dict[str, Any]:
    """Return a model's variables with the backbone that `load_resnet` returned."""
    values = traverse_util.flatten_dict(merge_frozen(backbone))

    def replace(collection: str, tree: Mapping[str, Any]) -> dict[str, Any]:
        kind = "params" if collection == FROZEN else collection
        flat = traverse_util.flatten_dict(dict(tree))
        return traverse_util.unflatten_dict(
            {
                path: values[kind, *path[1:]] if path[:1] == BACKBONE else value
                for path, value in flat.items()
            }
        )

    return {name: replace(name, tree) for name, tree in variables.items()}


def to_torchvision(variables: Variables, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the state dict that torchvision's model of the same architecture loads.

    Raises ValueError if torchvision has no such model, or no name for one of its arrays.
    """
    table = _table(config, "torchvision")
    return export_state(merge_frozen(variables), list(table.entries(config)))


def resnet_to_torchvision(variables: Variables, config: ResNetConfig) -> dict[str, np.ndarray]:
    """Return a ResNet's variables under torchvision's names, without a classifier."""
    return export_state(variables, list(torchvision_resnet(config, root=())))


def to_own_names(variables: Variables) -> dict[str, np.ndarray]:
    """Return any model's variables by their paths, such as `params/fpn/output2/kernel`.

    `load_checkpoint_file` reads them back.
    """
    merged = merge_frozen(variables)
    return export_state(merged, list(_own_entries(merged)))


def _own_entries(variables: Variables) -> Iterator[Entry]:
    for path in traverse_util.flatten_dict(dict(variables)):
        yield Entry("/".join(path), path, VECTOR)


_OWN_TABLE = NameTable(lambda config: _own_entries(_like(config)), prefix="params/")


def _tables(config: ModelConfig) -> Mapping[str, NameTable]:
    tables = TABLES.get(type(config))
    if tables is None:
        raise ValueError(f"jaxseg.zoo has no names for a {type(config).__name__}")
    return tables


def _table(config: ModelConfig, codebase: str) -> NameTable:
    if codebase == OWN:
        return _OWN_TABLE
    tables = _tables(config)
    if codebase not in tables:
        raise ValueError(
            f"{codebase} has no names for a {type(config).__name__}; known are those of "
            f"{', '.join(tables)}"
        )
    return tables[codebase]


def _codebase(state: Arrays, config: ModelConfig) -> str:
    """Return the codebase that a checkpoint's names belong to."""
    if any(name.startswith(_OWN_TABLE.prefix) for name in state):
        return OWN
    tables = _tables(config)
    for codebase, table in tables.items():
        if any(name.startswith(table.prefix) for name in state):
            return codebase
    raise ValueError(
        f"its names are not those of a {type(config).__name__} in {' or '.join(tables)}; the first "
        f"is {next(iter(state))}"
    )


def _read(path: pathlib.Path | str, load: Callable[[Arrays], T]) -> T:
    path = pathlib.Path(path)
    state = read_state_dict(path)
    try:
        return load(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load(state: Arrays, config: ModelConfig, codebase: str) -> dict[str, Any]:
    table = _table(config, codebase)
    state = {table.current_name(name): array for name, array in state.items()}
    variables = import_state(state, list(table.entries(config)), _like(config), _is_unused)
    return split_frozen_backbone(config.backbone, variables)


def _like(config: ModelConfig) -> dict[str, Any]:
    """Return the shapes of a model's variables, with none of them in the collection `"frozen"`."""
    init = config.build().init
    return merge_frozen(jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3))))


def _is_unused(name: str) -> bool:
    return _UNUSED.fullmatch(name) is not None
