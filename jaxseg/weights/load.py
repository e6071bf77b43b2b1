"""Whole models from state dicts: which table, and where the variables go."""

import pathlib
from typing import Any

import jax
import numpy as np

from jaxseg.model import Variables
from jaxseg.models.mask_rcnn import MaskRCNNConfig, mask_rcnn, set_frozen_apart
from jaxseg.nn.freezing import thaw
from jaxseg.weights import mask_rcnn as names
from jaxseg.weights.engine import Arrays, export_state, import_state
from jaxseg.weights.files import read_state_dict


def load_torchvision(state_dict: Arrays, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from torchvision's state dict of NumPy arrays, with old names or new.

    `config` needs `background_outputs=True`, and `num_classes` without the background. Raises
    ValueError that lists missing, unused and misshapen arrays.
    """
    return _load(names.modern_torchvision(state_dict), config, names.torchvision_table)


def load_mmdet(state_dict: Arrays, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from MMDetection's state dict of NumPy arrays; errors as `load_torchvision`."""
    return _load(state_dict, config, names.mmdet_table)


def load_detectron2(state_dict: Arrays, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from Detectron2's model of NumPy arrays; errors as `load_torchvision`."""
    return _load(state_dict, config, names.detectron2_table)


def load_checkpoint_file(path: pathlib.Path | str, config: MaskRCNNConfig) -> dict[str, Any]:
    """Variables from a `.pth`, `.pkl`, `.safetensors` or `.npz` of any of the zoos.

    The zoo is told by its names. Nothing in the file is run (see `jaxseg.weights.files`).
    """
    path = pathlib.Path(path)
    state = read_state_dict(path)
    if any(name.startswith("roi_head.") for name in state):
        load = load_mmdet
    elif any(name.startswith("backbone.bottom_up.") for name in state):
        load = load_detectron2
    else:
        load = load_torchvision
    try:
        return load(state, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_torchvision(variables: Variables, config: MaskRCNNConfig) -> dict[str, np.ndarray]:
    """The state dict that torchvision's model of the same architecture loads."""
    return export_state(thaw(variables), list(names.torchvision_table(config)))


def _load(state: Arrays, config: MaskRCNNConfig, table: names.Table) -> dict[str, Any]:
    init = mask_rcnn(config).init
    like = jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))
    variables = import_state(state, list(table(config)), thaw(like), names.is_unused)
    return set_frozen_apart(config, variables)
