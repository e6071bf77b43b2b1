"""What travels between the rooms of the house, and the glossary of its axes.

Axes:
    B     images in a batch (on one device, or globally where a text says so)
    H, W  height and width of the padded images, in pixels
    N     ground-truth slots of an image, padded; `valid` marks the used ones
    D     detection slots of an image, padded; `valid` marks the used ones
    M     side of a square mask crop
    C     channels or classes

Units and conventions, everywhere:
    boxes       `xyxy`, float32, absolute pixels of the padded input image, half-open
                (`x2 - x1` is the width), origin at the image's top-left corner
    image_size  `(height, width)` of the true image inside the padding, which lies to its
                right and below
    labels      contiguous ints from 0; a data set's own category ids stay in `data` and
                `evaluation`
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8


@jax.tree_util.register_static
class MaskFrame(enum.Enum):
    """What the pixels of a mask array are laid over.

    GRID_SAMPLE: the instance's own box, `[..., M, M]` whatever its size (Mask R-CNN family).
    INTEGER: the same, but the box is grown by one cell of the grid on every side and
        cut to whole pixels before the mask is laid over it, as torchvision does.
    IMAGE: the padded image at a stride, `[..., H/s, W/s]` (SOLO family).

    It is a static pytree node: it travels inside `Detections` through `jit` without being
    an array.
    """

    GRID_SAMPLE = "grid_sample"
    INTEGER = "integer"
    IMAGE = "image"


class MaskSpec(NamedTuple):
    """The ground-truth masks a model wants in its batches.

    `size` is M, the side of the crop, for `MaskFrame.GRID_SAMPLE` and the stride for
    `MaskFrame.IMAGE`. With `centers` the batch brings `Batch.centers`, and no objects whose masks
    are empty, since these have none.
    """

    frame: MaskFrame
    size: int
    centers: bool = False

    def shape(self, bucket: tuple[int, int]) -> tuple[int, int]:
        """`(height, width)` of each mask in a batch whose images are padded to `bucket`."""
        if self.frame is not MaskFrame.IMAGE:
            return self.size, self.size
        if bucket[0] % self.size or bucket[1] % self.size:
            raise ValueError(f"canvas {bucket} is not a multiple of the mask stride {self.size}")
        return bucket[0] // self.size, bucket[1] // self.size


class Batch(NamedTuple):
    """A training batch. Arrays may be NumPy (on the host) or JAX (on a device).

    `place` is each image's position in the GLOBAL batch: random draws for an image depend on
    it, and so do not depend on the device that the image landed on.

    Masks travel to the devices with 8 pixels of a row in each byte, the first in its highest bit
    (uint8, `w8 = ceil(w / 8)`); a model unpacks them first thing (`unpack_masks`).
    """

    images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]  # RGB, 0 to 255
    image_size: Int[Array, "B 2"]
    boxes: Float[Array, "B N 4"]
    labels: Int[Array, "B N"]
    masks: Bool[Array, "B N h w"] | UInt8[Array, "B N h w8"]  # as `needs` says; see below
    valid: Bool[Array, "B N"]
    index: Int[Array, " B"]  # type: ignore[assignment]  # shadows tuple.index
    centers: Float[Array, "B N 2"] | None = None
    """The masks' centres of mass, `(x, y)` in pixel indices of the padded image (the first pixel's
    is 0), for models that need them."""


def unpack_masks(batch: Batch, needs: MaskSpec) -> Batch:
    """The batch with bool masks, whether they were packed or not."""
    if batch.masks.dtype == bool:
        return batch
    width = needs.shape((batch.images.shape[1], batch.images.shape[2]))[1]
    return batch._replace(masks=jnp.unpackbits(batch.masks, axis=-1, count=width).astype(bool))


class EvalBatch(NamedTuple):
    """Images to predict on (NumPy), and what is needed to bring predictions back to the originals.

    A batch that was filled up to its static size marks the fillers with `valid = False`.
    """

    images: UInt8[np.ndarray, "B H W 3"] | Float[np.ndarray, "B H W 3"]
    image_size: Int[np.ndarray, "B 2"]
    original_size: Int[np.ndarray, "B 2"]  # (height, width) of the image as stored
    image_id: Int[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]


class Detections(NamedTuple):
    """What `predict` returns: up to D instances an image, best score first.

    `masks` are probabilities. Slots with `valid = False` hold zeros.
    """

    boxes: Float[Array, "B D 4"]
    scores: Float[Array, "B D"]
    labels: Int[Array, "B D"]
    masks: Float[Array, "B D h w"]
    valid: Bool[Array, "B D"]
    mask_frame: MaskFrame


class LossTerm(NamedTuple):
    """One loss as a sum and a weight, never a mean.

    The step adds `total` and `weight` over all devices and uses
    `scale * total / (weight + offset)`. Dividing on each device and averaging afterwards would
    give another number wherever devices hold different counts of positives. A term with a `scale`
    of 0 is no loss: `total / weight` is shown among the metrics and nothing is learned from it.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    scale: float = 1.0
    offset: float = 0.0
