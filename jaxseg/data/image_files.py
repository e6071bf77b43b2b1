"""Images without annotations, in files or in memory, as a source for prediction."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.images import image_size, read_image
from jaxseg.data.source import Category, Example

ImageOrPath = pathlib.Path | UInt8[np.ndarray, "h w 3"]
"""An image file, or RGB pixels."""


class ImageFiles:
    """Image files, and images in memory, as a source; ids count from `first_id`.

    Sizes are read at once, for which formats other than JPEG are decoded; pixels when accessed.
    Raises FileNotFoundError or ValueError for files that are no images.
    """

    def __init__(self, images: Sequence[ImageOrPath], first_id: int = 1):
        self.images = images
        self.categories: Sequence[Category] = ()
        self.image_ids = range(first_id, first_id + len(images))
        sizes = [x.shape[:2] if isinstance(x, np.ndarray) else image_size(x) for x in images]
        self.image_sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        self.object_counts: np.ndarray | None = np.zeros(len(images), np.int64)
        self.fingerprint = fingerprint(self.image_sizes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Example:
        image = self.images[index]
        return Example(
            image=image if isinstance(image, np.ndarray) else read_image(image),
            image_id=self.image_ids[index],
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            rles=(),
            iscrowd=np.zeros(0, bool),
        )

    def ground_truth(self) -> dict[str, Any]:
        """Return COCO JSON without any annotations."""
        return {"images": [], "annotations": [], "categories": []}
