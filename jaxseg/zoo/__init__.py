"""Published models of other codebases: their configs, and their checkpoints in and out.

`MODELS` has one `ZooModel` for each; a module for each model holds its records and, for each
codebase, the names of its arrays.
"""

from jaxseg.zoo.files import read_metadata, read_state_dict, write_safetensors
from jaxseg.zoo.load import (
    MODELS,
    load_adelaidet,
    load_checkpoint_file,
    load_detectron2,
    load_fitting,
    load_mmdet,
    load_resnet,
    load_resnet_file,
    load_solo,
    load_torchvision,
    replace_backbone,
    resnet_to_torchvision,
    to_own_names,
    to_torchvision,
)
from jaxseg.zoo.record import Preprocessing, ZooModel
from jaxseg.zoo.resnet import RESNETS

__all__ = [
    "MODELS",
    "RESNETS",
    "Preprocessing",
    "ZooModel",
    "load_adelaidet",
    "load_checkpoint_file",
    "load_detectron2",
    "load_fitting",
    "load_mmdet",
    "load_resnet",
    "load_resnet_file",
    "load_solo",
    "load_torchvision",
    "read_metadata",
    "read_state_dict",
    "replace_backbone",
    "resnet_to_torchvision",
    "to_own_names",
    "to_torchvision",
    "write_safetensors",
]
