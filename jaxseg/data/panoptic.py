"""Panoptic maps: every pixel belongs to one segment, of a thing or of stuff, or to none (void).

Terms:
    thing     a class whose objects are counted; each segment is one object (or a crowd)
    stuff     a class without objects, such as sky; one segment an image
    void      pixels without a segment, id 0
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxseg.data.source import Category, Source
from jaxseg.model import ModelConfig, PanopticModelConfig
from jaxseg.types import TargetSpec


class Segment(NamedTuple):
    """One segment of a panoptic map."""

    id: int  # at least 1
    label: int  # of things and stuff together, things first
    iscrowd: bool = False
    score: float | None = None  # of a predicted thing


class PanopticMap(NamedTuple):
    """The segments of one image. Each id in `ids` besides 0 is that of one segment."""

    ids: np.ndarray  # int32 [h, w]; 0 is void
    segments: Sequence[Segment]


@runtime_checkable
class PanopticSource(Source, Protocol):
    """A split with panoptic maps. Its `categories` are the things, then the stuff.

    Its examples have the objects of things alone, and a `semantic` map of all labels.
    """

    @property
    def num_things(self) -> int:
        """Return the number of thing categories, the first ones of `categories`."""
        ...

    def panoptic_map(self, index: int, /) -> PanopticMap:
        """Return the panoptic map of the image `self[index]`."""
        ...


@runtime_checkable
class SemanticSource(Source, Protocol):
    """A split whose examples have semantic maps of classes of their own, such as COCO-Stuff's."""

    @property
    def num_semantic_classes(self) -> int:
        """Return the number of classes; the maps hold 0 to this number - 1, and 255."""
        ...


def num_semantic_classes(source: Source) -> int | None:
    """Return the number of classes of a source's semantic maps, None if it has no maps."""
    if isinstance(source, PanopticSource):
        return len(source.categories)
    return source.num_semantic_classes if isinstance(source, SemanticSource) else None


def check_semantic_maps(source: Source, targets: TargetSpec) -> None:
    """Raise ValueError if the targets have semantic maps and the source has none."""
    if targets.semantic_stride is not None and num_semantic_classes(source) is None:
        raise ValueError(
            "the model learns from semantic maps, which the data does not have: give panoptic "
            "annotations (--data.source.panoptic) or a folder of maps "
            "(--data.source.semantic-maps DIR)"
        )


def thing_categories(source: Source) -> Sequence[Category]:
    """Return the categories that objects have: all of them, where there is no stuff."""
    if isinstance(source, PanopticSource):
        return source.categories[: source.num_things]
    return source.categories


def label_categories(source: Source, model: ModelConfig) -> Sequence[Category]:
    """Return the categories that a model can learn from a source: stuff only if it is panoptic."""
    return source.categories if isinstance(model, PanopticModelConfig) else thing_categories(source)
