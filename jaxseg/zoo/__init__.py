"""Published checkpoints in and out: a strict engine, and one table of names for each zoo."""

from jaxseg.zoo.files import read_state_dict, write_safetensors
from jaxseg.zoo.load import (
    load_adelaidet,
    load_checkpoint_file,
    load_detectron2,
    load_mmdet,
    load_resnet,
    load_resnet_file,
    load_solo,
    load_torchvision,
    replace_backbone,
    resnet_to_torchvision,
    to_torchvision,
)

__all__ = [
    "load_adelaidet",
    "load_checkpoint_file",
    "load_detectron2",
    "load_mmdet",
    "load_resnet",
    "load_resnet_file",
    "load_solo",
    "load_torchvision",
    "read_state_dict",
    "replace_backbone",
    "resnet_to_torchvision",
    "to_torchvision",
    "write_safetensors",
]
