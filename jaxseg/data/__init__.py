"""Data on the host: sources of annotated images, and batches of static shape from them."""

import pathlib
from dataclasses import replace

from jaxseg.data.coco.folder import CocoFolder
from jaxseg.data.coco.layout import is_tfds
from jaxseg.data.coco.write import coco_json, write_coco
from jaxseg.data.config import DataConfig
from jaxseg.data.image_files import ImageFiles, ImageOrPath
from jaxseg.data.image_inputs import expand_path, is_single, read_inputs
from jaxseg.data.images import IMAGE_SUFFIXES, read_image
from jaxseg.data.panoptic import PanopticMap, PanopticSource, Segment
from jaxseg.data.pipeline import TrainPipeline, eval_batches, train_batches
from jaxseg.data.shapes import Shapes
from jaxseg.data.source import (
    RLE,
    Category,
    Example,
    Source,
    SourceConfig,
    check_category_names,
)
from jaxseg.data.tfds import TfdsFolder
from jaxseg.data.transforms.augmentation import (
    Augmentation,
    ColorJitter,
    CopyPaste,
    RandomSizeCrop,
    ScaleJitter,
)
from jaxseg.data.transforms.resize import ResizeBackend

__all__ = [
    "IMAGE_SUFFIXES",
    "RLE",
    "Augmentation",
    "Category",
    "CocoFolder",
    "ColorJitter",
    "CopyPaste",
    "DataConfig",
    "Example",
    "ImageFiles",
    "ImageOrPath",
    "PanopticMap",
    "PanopticSource",
    "RandomSizeCrop",
    "ResizeBackend",
    "ScaleJitter",
    "Segment",
    "Shapes",
    "Source",
    "SourceConfig",
    "TfdsFolder",
    "TrainPipeline",
    "check_category_names",
    "coco_json",
    "eval_batches",
    "expand_path",
    "folder_config",
    "is_single",
    "read_image",
    "read_inputs",
    "train_batches",
    "without_semantic_maps",
    "write_coco",
]


def folder_config(path: pathlib.Path) -> CocoFolder | TfdsFolder:
    """Return the config of a folder: TFDS if it is a prepared dataset, else COCO format."""
    found = TfdsFolder if is_tfds(path) else CocoFolder
    return found(str(path))


def without_semantic_maps(config: SourceConfig) -> SourceConfig:
    """Return the config without maps beside instances, which evaluation does not need."""
    if not isinstance(config, CocoFolder):
        return config
    return replace(config, semantic_maps=None, num_semantic_classes=None)
