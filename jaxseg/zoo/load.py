"""Whole models and backbones from state dicts: which table, and where the variables go."""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import traverse_util

from jaxseg.model import Variables
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.build import split_frozen_backbone
from jaxseg.nn.freezing import FROZEN, merge_frozen
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.zoo import mask_rcnn as names
from jaxseg.zoo import solov2 as solo_names
from jaxseg.zoo.engine import Arrays, Entry, export_state, import_state
from jaxseg.zoo.files import read_state_dict
from jaxseg.zoo.resnet import (
    BACKBONE,
    detectron2_resnet,
    is_unused_by_resnet,
    torchvision_resnet,
)

Config = TypeVar("Config", MaskRCNNConfig, SOLOv2Config)


def load_torchvision(state_dict: Arrays, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from torchvision's state dict of NumPy arrays, with old names or new.

    `config` needs `background_outputs=True`, and `num_classes` without the background. Raises
    ValueError that lists missing, unused and misshapen arrays.
    """
    return _load(names.modern_torchvision(state_dict), config, names.torchvision_table)


def load_mmdet(state_dict: Arrays, config: MaskRCNNConfig | SOLOv2Config) -> dict[str, Any]:
    """Variables from MMDetection's state dict of NumPy arrays; errors as `load_torchvision`."""
    if isinstance(config, SOLOv2Config):
        return _load(state_dict, config, solo_names.mmdet_table)
    return _load(state_dict, config, names.mmdet_table)


def load_adelaidet(state_dict: Arrays, config: SOLOv2Config) -> dict[str, Any]:
    """Variables from AdelaiDet's state dict of NumPy arrays; errors as `load_torchvision`."""
    return _load(state_dict, config, solo_names.adelaidet_table)


def load_solo(state_dict: Arrays, config: SOLOv2Config) -> dict[str, Any]:
    """Variables from the state dict of SOLO's authors; errors as `load_torchvision`."""
    return _load(state_dict, config, solo_names.authors_table)


def load_detectron2(state_dict: Arrays, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from Detectron2's model of NumPy arrays; errors as `load_torchvision`."""
    return _load(state_dict, config, names.detectron2_table)


def load_resnet(state_dict: Arrays, config: ResNetConfig) -> dict[str, Any]:
    """Variables of `jaxseg.nn.resnet.ResNet` from a classifier's state dict of NumPy arrays.

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
    return import_state(state_dict, list(table(config, root=())), like, is_unused_by_resnet)


def load_checkpoint_file(
    path: pathlib.Path | str, config: MaskRCNNConfig | SOLOv2Config
) -> dict[str, Any]:
    """Variables from a `.pth`, `.pkl`, `.safetensors` or `.npz` of any of the zoos.

    The zoo is told by its names. Nothing in the file is run (see `jaxseg.zoo.files`).
    """

    def load(state: Arrays) -> dict[str, Any]:
        if isinstance(config, SOLOv2Config):
            if any(name.startswith("ins_head.") for name in state):
                return load_adelaidet(state, config)
            if any(name.startswith("bbox_head.solo_") for name in state):
                return load_solo(state, config)
            return load_mmdet(state, config)
        if any(name.startswith("roi_head.") for name in state):
            return load_mmdet(state, config)
        if any(name.startswith("backbone.bottom_up.") for name in state):
            return load_detectron2(state, config)
        return load_torchvision(state, config)

    return _read(path, load)


def load_resnet_file(path: pathlib.Path | str, config: ResNetConfig) -> dict[str, Any]:
    """`load_resnet` of a file that `read_state_dict` reads; errors name the file."""
    return _read(path, lambda state: load_resnet(state, config))


def replace_backbone(variables: Variables, backbone: Variables) -> dict[str, Any]:
    """A model's variables with the ResNet's own, as `load_resnet` gives them, put in."""
    values = traverse_util.flatten_dict(merge_frozen(backbone))

    def put_in(collection: str, tree: Mapping[str, Any]) -> dict[str, Any]:
        kind = "params" if collection == FROZEN else collection
        flat = traverse_util.flatten_dict(dict(tree))
        return traverse_util.unflatten_dict(
            {
                path: values[kind, *path[1:]] if path[:1] == BACKBONE else value
                for path, value in flat.items()
            }
        )

    return {name: put_in(name, tree) for name, tree in variables.items()}


def to_torchvision(variables: Variables, config: MaskRCNNConfig) -> dict[str, np.ndarray]:
    """The state dict that torchvision's model of the same architecture loads."""
    return export_state(merge_frozen(variables), list(names.torchvision_table(config)))


def resnet_to_torchvision(variables: Variables, config: ResNetConfig) -> dict[str, np.ndarray]:
    """The variables of a ResNet under torchvision's names, without a classifier."""
    return export_state(variables, list(torchvision_resnet(config, root=())))


def _read(path: pathlib.Path | str, load: Callable[[Arrays], dict[str, Any]]) -> dict[str, Any]:
    path = pathlib.Path(path)
    state = read_state_dict(path)
    try:
        return load(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load(state: Arrays, config: Config, table: Callable[[Config], Iterator[Entry]]) -> dict:
    init = config.build().init
    like = jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))
    variables = import_state(state, list(table(config)), merge_frozen(like), names.is_unused)
    return split_frozen_backbone(config.backbone, variables)
