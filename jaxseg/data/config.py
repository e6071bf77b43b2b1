"""Where the data is and how its images become batches of static shape."""

import dataclasses

from jaxseg.data.source import SourceConfig
from jaxseg.data.transforms.augmentation import Augmentation
from jaxseg.data.transforms.resize import Resampling


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A data set and the shapes of its batches."""

    source: SourceConfig
    canvases: tuple[tuple[int, int], ...]
    """`(height, width)` that images are padded to, right and below. Of several, each image takes
    the smallest that it fits; all images of a batch have the same. A step is compiled for each."""
    resize: tuple[int, int] | None
    """`(shorter, longer)`: sides of the resized image; None leaves images as stored. In training,
    `augmentation.jitter` takes its place."""
    resampling: Resampling = "opencv"
    """Whose way of resizing: see `jaxseg.data.transforms.resize`."""
    max_objects: int = 100
    """Slots for ground truth; in more crowded images the largest objects are kept."""
    augmentation: Augmentation = Augmentation()
    """Random changes of training images."""
    workers: int = 0
    """Processes that prepare batches; with none, the training's own process does it. They hand
    batches over in shared memory, of which containers may have little (docker: `--shm-size`)."""
    threads: int = 2
    """Threads that prepare batches, in each process."""

    def __post_init__(self) -> None:
        if not self.canvases or min(side for canvas in self.canvases for side in canvas) < 1:
            raise ValueError(f"data: canvases {self.canvases} must be one or more (height, width)")
        if self.resize is not None and min(self.resize) < 1:
            raise ValueError(f"data: resize {self.resize} must be two positive sides, or None")
        for name, least in (("max_objects", 1), ("workers", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data: {name} {getattr(self, name)} must be at least {least}")
        scales = self.augmentation.scales
        if scales and (self.resize is None or max(scales) > self.resize[0]):
            raise ValueError(
                f"data: augmentation.scales {scales} need a resize whose first side is no "
                f"smaller, since canvases are chosen by it; resize is {self.resize}"
            )
