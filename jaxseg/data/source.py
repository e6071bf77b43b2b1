"""What a data set is to the rest of jaxseg: examples by number, with their annotations.

Terms:
    RLE      a mask in COCO's compressed run-length encoding,
             `{"size": [h, w], "counts": bytes}`, as `pycocotools.mask` reads and writes it
    crowd    one annotation for a group of objects; left out of training, ignored in
             evaluation
    label    an object's place in `categories`, contiguous from 0
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

RLE = dict[str, Any]


class Category(NamedTuple):
    """A class of objects, with the data set's own id."""

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


@runtime_checkable
class Source(Protocol):
    """A split of a data set. `source[i]` is a pure function of `i`."""

    @property
    def categories(self) -> Sequence[Category]: ...

    @property
    def image_ids(self) -> Sequence[int]: ...

    @property
    def image_sizes(self) -> np.ndarray:
        """int32 `[n, 2]`: `(height, width)` of every image, without reading any."""
        ...

    @property
    def object_counts(self) -> np.ndarray | None:
        """int `[n]`: every image's objects that are no crowds; None if that takes reading them."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def ground_truth(self) -> dict[str, Any]:
        """All annotations as COCO JSON, for evaluation."""
        ...


@runtime_checkable
class SourceConfig(Protocol):
    """A frozen dataclass that says where a data set is."""

    def open(self, split: str) -> Source:
        """The split of a name; `train` and `val` are understood by all."""
        ...


class ImageList:
    """Images without annotations, as a source for prediction; ids count from 1."""

    def __init__(self, images: Sequence[np.ndarray]):
        self._images = images
        self.categories: Sequence[Category] = ()
        self.image_ids = range(1, len(images) + 1)
        sizes = [image.shape[:2] for image in images]
        self.image_sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        self.object_counts: np.ndarray | None = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> Example:
        image, nothing = self._images[index], np.zeros(0, np.int32)
        boxes = np.zeros((0, 4), np.float32)
        return Example(image, self.image_ids[index], boxes, nothing, (), nothing.astype(bool))

    def ground_truth(self) -> dict[str, Any]:
        return {"images": [], "annotations": [], "categories": []}
