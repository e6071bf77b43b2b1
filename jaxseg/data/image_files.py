"""Image files without annotations, as a source for prediction."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.images import image_size, read_image
from jaxseg.data.source import Category, Example


class ImageFiles:
    """Image files as a source; ids count from 1.

    Sizes are read at once, for which formats other than JPEG are decoded; pixels when accessed.
    Raises FileNotFoundError or ValueError for files that are no images.
    """

    def __init__(self, paths: Sequence[pathlib.Path]):
        self._paths = paths
        self.categories: Sequence[Category] = ()
        self.image_ids = range(1, len(paths) + 1)
        self.image_sizes = np.asarray([image_size(path) for path in paths], np.int32).reshape(-1, 2)
        self.object_counts: np.ndarray | None = np.zeros(len(paths), np.int64)
        self.fingerprint = fingerprint(self.image_sizes)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int, /) -> Example:
        return Example(
            image=read_image(self._paths[index]),
            image_id=self.image_ids[index],
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            rles=(),
            iscrowd=np.zeros(0, bool),
        )

    def ground_truth(self) -> dict[str, Any]:
        """Return COCO JSON without any annotations."""
        return {"images": [], "annotations": [], "categories": []}
