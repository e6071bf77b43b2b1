"""The values that every reader returns: images with objects by split, and what was lost."""

import collections
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxseg.data.source import RLE

Polygons = list[list[float]]
"""The parts of one object, each `[x0, y0, x1, y1, ...]` in pixels."""

NO_SPLIT = ""
"""The split of images that the source does not divide."""
_EXAMPLES = 3


class Object(NamedTuple):
    """One object, or a crowd of them."""

    category: str
    segmentation: Polygons | RLE  # polygons without holes, else compressed RLE
    iscrowd: bool = False


class ImportedImage(NamedTuple):
    """One image and its objects."""

    name: str  # relative to the new image folder
    path: pathlib.Path
    size: tuple[int, int]  # (height, width), as the annotations see it
    objects: list[Object]
    read_embedded: Callable[[], bytes] | None = None
    """Reads the image from an annotation file, where there is no file of its own."""


class Skipped:
    """What could not be kept: the number of cases for each reason, and the first of them."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, reason: str, where: object) -> None:
        """Count one case; `where` names its file and entry."""
        self.counts[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(str(where))

    def lines(self) -> list[str]:
        """Return one line for each reason, the most frequent first."""
        return [
            f"{count} x {reason} ({', '.join(self._examples[reason])}"
            f"{', ...' if count > len(self._examples[reason]) else ''})"
            for reason, count in self.counts.most_common()
        ]


class ImportedData(NamedTuple):
    """All that a reader found."""

    splits: dict[str, list[ImportedImage]]  # by name; NO_SPLIT if there are none
    categories: list[str]
    skipped: Skipped
    split_note: str = ""
    """How the images were divided, where the source has no splits."""


class Options(NamedTuple):
    """The choices of a caller about reading and splitting."""

    images: pathlib.Path | None = None
    """Folder of the images, where the annotations do not say it."""
    class_attribute: str | None = None
    """The attribute that holds the class (VIA)."""
    allow_outside_files: bool = False
    """Read files outside the source that it names."""
    val_fraction: float = 0.2
    """Fraction of the images for validation, where the source has no splits; 0 for none."""
    seed: int = 0
    """Chooses these images."""
