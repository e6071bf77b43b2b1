"""Where the data is and how its images become batches of static shape."""

import dataclasses

from jaxseg.data.source import SourceConfig
from jaxseg.data.transforms.augmentation import Augmentation
from jaxseg.data.transforms.resize import ResizeBackend


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A data set and the shapes of its batches."""

    source: SourceConfig
    buckets: tuple[tuple[int, int], ...]
    """`(height, width)` that images are padded to, right and below. Of several, each image takes
    the smallest that it fits; all images of a batch have the same. A step is compiled for each."""
    min_size: int | None = None
    """Length of the shorter side of the resized image, unless the longer one would pass `max_size`
    (Lin et al. 2017, section 5). Without both, images stay as stored. In training,
    `augmentation.min_sizes` or `lsj` replace it."""
    max_size: int | None = None
    """Largest length of the longer side of the resized image."""
    resize_backend: ResizeBackend = "cv2"
    """Whose way of resizing: see `jaxseg.data.transforms.resize`."""
    max_objects: int = 100
    """Slots for ground truth; in more crowded images the largest objects are kept."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training images."""
    num_workers: int = 0
    """Processes that prepare batches; with none, the training's own process does it. They hand
    batches over in shared memory, of which containers may have little (docker: `--shm-size`)."""
    num_threads: int = 2
    """Threads that prepare batches, in each process."""

    def __post_init__(self) -> None:
        if not self.buckets or min(side for bucket in self.buckets for side in bucket) < 1:
            raise ValueError(f"data: buckets {self.buckets} must be one or more (height, width)")
        if (self.min_size is None) != (self.max_size is None):
            raise ValueError(
                f"data: min_size {self.min_size} and max_size {self.max_size}: set both, or neither"
            )
        if self.min_max_size is not None and min(self.min_max_size) < 1:
            raise ValueError(f"data: min_size and max_size {self.min_max_size} must be positive")
        for name, least in (("max_objects", 1), ("num_workers", 0), ("num_threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data: {name} {getattr(self, name)} must be at least {least}")
        min_sizes = self.augmentation.min_sizes
        if min_sizes and (self.min_size is None or max(min_sizes) > self.min_size):
            raise ValueError(
                f"data: augmentation.min_sizes {min_sizes} must not exceed min_size, by which "
                f"buckets are chosen; min_size is {self.min_size}"
            )

    @property
    def min_max_size(self) -> tuple[int, int] | None:
        """`(min_size, max_size)`; None where images stay as stored."""
        if self.min_size is None or self.max_size is None:
            return None
        return self.min_size, self.max_size
