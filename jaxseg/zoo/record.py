"""The record of a published model, the source of `weights import --model` and docs/models.md."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from jaxseg.model import ModelConfig
from jaxseg.zoo.engine import Entry


class NameTable(NamedTuple):
    """The names of a model's arrays in one codebase."""

    entries: Callable[[Any], Iterator[Entry]]
    """From a model's config to the entries of all its arrays."""
    prefix: str
    """The beginning of names that occur in this codebase's checkpoints alone."""
    current_name: Callable[[str], str] = str
    """From a name of any release of the codebase to the one in `entries`."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The image size that a model was trained on, and the library that resized it."""

    resize_backend: Literal["cv2", "torch", "pillow"]
    min_size: int = 800
    max_size: int = 1333
    buckets: tuple[tuple[int, int], ...] = ((800, 1344), (1344, 800))


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """A published model."""

    name: str
    """Its name for `jaxseg weights import --model`."""
    config: ModelConfig
    codebase: str
    """A key of the tables of the config's class, such as "torchvision"."""
    preprocessing: Preprocessing
    checkpoint: str
    """The published weights, as their source calls them."""
    mask_ap: float | None
    """AP on COCO val2017 as the source states it, in percent; None where it states none."""
    box_ap: float | None
    parameters: int
    """Numbers in its weights, counted as the source counts them."""
    gmacs: int
    """10^9 multiply-adds of one padded image (`python scripts/model_table.py --measure`)."""
    pq: float | None = None
    """Panoptic quality on COCO val2017, likewise."""
    experiment: str | None = None
    """The file in experiments/ that trains it."""
