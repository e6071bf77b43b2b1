"""The settings of a dataset and of the batches that are made from it."""

import dataclasses

from jaxseg.data.source import SourceConfig
from jaxseg.data.transforms.augmentation import Augmentation
from jaxseg.data.transforms.resize import ResizeBackend


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A dataset, the shapes of its batches and the random changes of its training images."""

    source: SourceConfig
    buckets: tuple[tuple[int, int], ...]
    """`(height, width)` that images are padded to, on the right and below. Of several, each image
    takes the smallest that it fits; all images of a batch have the same. The training step is
    compiled once for each."""
    min_size: int | None = None
    """Length of the shorter side of the resized image, unless the longer one would exceed
    `max_size` (Lin et al. 2017, section 5). Without both, images keep their original size. In
    training, `augmentation.min_sizes` or `augmentation.lsj` replace it."""
    max_size: int | None = None
    """Largest length of the longer side of the resized image."""
    resize_backend: ResizeBackend = "cv2"
    """The filter that resizes images; see `jaxseg.data.transforms.resize.ResizeBackend`."""
    max_objects: int = 100
    """Slots for the objects of an image; if it has more, the largest are kept."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training images."""
    space_to_depth: bool = False
    """Send training images to the devices as blocks of 2x2 pixels, `[B, H/2, W/2, 12]`, which a
    TPU convolves faster in a ResNet's stem. Changes rounding, nothing else."""
    num_workers: int = 0
    """Worker processes that prepare batches; with 0, the training process prepares them. Workers
    pass batches in shared memory, of which containers may have little (docker: `--shm-size`)."""
    num_threads: int = 2
    """Threads that prepare batches, in each process."""

    def __post_init__(self) -> None:
        if not self.buckets or min(side for bucket in self.buckets for side in bucket) < 1:
            raise ValueError(
                f"data: buckets {self.buckets} must be one or more positive (height, width)"
            )
        if self.space_to_depth and any(side % 2 for bucket in self.buckets for side in bucket):
            raise ValueError(
                f"data: buckets {self.buckets} must be even with space_to_depth, whose blocks are "
                "2x2 pixels"
            )
        if (self.min_size is None) != (self.max_size is None):
            raise ValueError(
                f"data: min_size {self.min_size} and max_size {self.max_size}: set both or neither"
            )
        if self.min_max_size is not None and min(self.min_max_size) < 1:
            raise ValueError(f"data: min_size and max_size {self.min_max_size} must be positive")
        for name, minimum in (("max_objects", 1), ("num_workers", 0), ("num_threads", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"data: {name} {getattr(self, name)} must be at least {minimum}")
        min_sizes = self.augmentation.min_sizes
        if min_sizes and (self.min_size is None or max(min_sizes) > self.min_size):
            raise ValueError(
                f"data: augmentation.min_sizes {min_sizes} must not exceed min_size "
                f"{self.min_size}, which decides each image's bucket; set min_size to the largest"
            )

    @property
    def min_max_size(self) -> tuple[int, int] | None:
        """Return `(min_size, max_size)`, or None where images keep their original size."""
        if self.min_size is None or self.max_size is None:
            return None
        return self.min_size, self.max_size
