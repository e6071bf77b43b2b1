"""The interface of a dataset: examples by index, with their annotations.

Terms:
    RLE      a mask in COCO's compressed run-length encoding,
             `{"size": [h, w], "counts": bytes}`, as `pycocotools.mask` reads and writes it
    crowd    one annotation for a group of objects; skipped in training, ignored in evaluation
    label    an object's index in `categories`
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

RLE = dict[str, Any]


class Category(NamedTuple):
    """A class of objects, with the dataset's own id."""

    id: int
    name: str


class Example(NamedTuple):
    """One image and its n annotated objects. Boxes are `xyxy` in this image's pixels."""

    image: np.ndarray  # uint8 [h, w, 3], RGB
    image_id: int
    boxes: np.ndarray  # float32 [n, 4]
    labels: np.ndarray  # int32 [n]
    rles: Sequence[RLE]  # n masks of the image's size
    iscrowd: np.ndarray  # bool [n]
    semantic: np.ndarray | None = None  # uint8 [h, w]: the label of each pixel, 255 is ignored


@runtime_checkable
class Source(Protocol):
    """A split of a dataset. `source[i]` is a pure function of `i`."""

    @property
    def categories(self) -> Sequence[Category]:
        """Return the categories by label."""
        ...

    @property
    def image_ids(self) -> Sequence[int]:
        """Return the dataset's id of each image."""
        ...

    @property
    def image_sizes(self) -> np.ndarray:
        """Return each image's `(height, width)`, int32 `[n, 2]`, without reading the images."""
        ...

    @property
    def object_counts(self) -> np.ndarray | None:
        """Return each image's number of objects without crowds, int `[n]`.

        None if it cannot be known without reading the images.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Return the identity of the data (`jaxseg.data.fingerprint`), to resume a run with.

        It covers what training reads besides the pixels: ids and sizes of the images, and their
        annotations, in order (of a TFDS dataset, the annotations' size alone). It does not depend
        on images or annotations that the config leaves out, nor on where the files are.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def ground_truth(self) -> dict[str, Any]:
        """Return all annotations as COCO JSON, for evaluation."""
        ...


HALF_PAIR = "has half of a surrogate pair, which is no character"


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded: JSON such as "\\ud800" gives half a character.

    Such a text crashes OpenCV, and cannot be written to most files.
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_category_names(categories: Iterable[Category]) -> None:
    """Raise ValueError if the name of a category is not valid Unicode."""
    for category in categories:
        if not is_unicode(category.name):
            raise ValueError(
                f"category id {category.id}: name {category.name!r} {HALF_PAIR}: rename it"
            )


@runtime_checkable
class SourceConfig(Protocol):
    """A frozen dataclass that describes a dataset."""

    def open(self, split: str) -> Source:
        """Open the split of a name; every dataset has a `train` and a `val`."""
        ...
