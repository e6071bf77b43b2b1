"""The values that data, models, training and evaluation exchange, and the glossary of their axes.

Axes:
    B     images in a batch (on one device, or in the global batch where stated)
    H, W  height and width of the padded images, in pixels
    N     ground-truth slots of an image, padded; `valid` marks the used ones
    D     detection slots of an image, padded; `valid` marks the used ones
    M     side of a square mask crop
    C     channels or classes

Units and conventions, everywhere:
    boxes       `xyxy`, float32, absolute pixels of the padded input image, half-open
                (`x2 - x1` is the width), origin at the image's top-left corner
    image_size  `(height, width)` of the image without its padding, which is on the right and below
    labels      contiguous ints from 0, things first, then stuff; a dataset's own category ids
                stay in `data` and `evaluation`
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

IGNORED = 255
"""The value of semantic maps where no class is known, and in the padding."""

BLOCK_CHANNELS = 12
"""Channels of images sent as blocks of 2x2 RGB pixels (`jaxseg.data.DataConfig.space_to_depth`)."""


@jax.tree_util.register_static
class MaskFrame(enum.Enum):
    """The area that a predicted mask covers, and how it is pasted into the image.

    GRID_SAMPLE: the instance's box, `[..., M, M]`, sampled bilinearly at pixel centres as
        Detectron2 and MMDetection do.

    INTEGER: the instance's box, grown by one mask cell on every side and cut to whole pixels, as
        torchvision does.

    IMAGE: the padded image at a stride, `[..., H/s, W/s]` (SOLO family).

    It is a static pytree node, so `Detections` carries it through `jit`.
    """

    GRID_SAMPLE = "grid_sample"
    INTEGER = "integer"
    IMAGE = "image"


@dataclasses.dataclass(frozen=True)
class HeuristicMerging:
    """How instances and a semantic map become one panoptic map (Kirillov et al. 2019, arXiv
    1801.00868, section 7, and 1901.02446): instances first, best score first.
    """

    score_threshold: float = 0.5
    """Instances with a lower score are left out."""
    max_overlap: float = 0.5
    """An instance is left out if more than this share of its mask is covered by better ones."""
    min_stuff_area: int = 4096
    """Stuff with fewer pixels of the original image becomes void."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PanopticMerging:
    """What merging must know besides the detections.

    A static pytree node, like `MaskFrame`.
    """

    num_things: int
    """Number of thing classes; the stuff classes have the labels from it on."""
    heuristic: HeuristicMerging


@dataclasses.dataclass(frozen=True)
class BoxCrops:
    """Ground-truth masks cropped to each object's box and resized to `[size, size]`."""

    size: int

    def shape(self, bucket: tuple[int, int]) -> tuple[int, int]:
        """Return `(height, width)` of each mask."""
        del bucket
        return self.size, self.size


@dataclasses.dataclass(frozen=True)
class ImageMasks:
    """Ground-truth masks of the whole padded image at a stride."""

    stride: int

    def shape(self, bucket: tuple[int, int]) -> tuple[int, int]:
        """Return `(height, width)` of each mask of images padded to `bucket`.

        Raises ValueError unless both sides of `bucket` are multiples of the stride.
        """
        if bucket[0] % self.stride or bucket[1] % self.stride:
            raise ValueError(f"bucket {bucket} is not a multiple of the mask stride {self.stride}")
        return bucket[0] // self.stride, bucket[1] // self.stride


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """The ground truth that a model's training batches carry besides boxes and labels."""

    masks: BoxCrops | ImageMasks | None = None
    centers: bool = False
    """Centres of mass (SOLO, CondInst). Objects with empty masks, which have none, are left out."""
    semantic_stride: int | None = None
    """Stride of a map of classes (HTC, Panoptic FPN, Mask2Former)."""


class Batch(NamedTuple):
    """A training batch. Arrays are NumPy (on the host) or JAX (on a device).

    Fields that the model's `TargetSpec` does not name are None.

    Masks are sent to the devices as bits, 8 pixels of a row in a byte, the first in its highest
    bit (uint8, `w8 = ceil(w / 8)`); a model unpacks them first (`unpack_masks`).
    """

    images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]
    """RGB, 0 to 255; or blocks of 2x2 pixels, `[B, H/2, W/2, 12]`: the channels of the upper left
    pixel, then of the upper right, the lower left and the lower right
    (`jaxseg.data.DataConfig.space_to_depth`)."""
    image_size: Int[Array, "B 2"]
    boxes: Float[Array, "B N 4"]
    labels: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    index: Int[Array, " B"]  # type: ignore[assignment]  # shadows tuple.index
    """Each image's position in the GLOBAL batch. Random draws for an image depend on it, and so do
    not depend on the device that computes it."""
    masks: Bool[Array, "B N h w"] | UInt8[Array, "B N h w8"] | None = None
    centers: Float[Array, "B N 2"] | None = None
    """The masks' centres of mass, `(x, y)` in pixel indices of the padded image (the first pixel's
    is 0)."""
    semantic: UInt8[Array, "B h w"] | None = None
    """The class of each cell; `IGNORED` cells have none."""


def padded_shape(images: Any) -> tuple[int, int]:
    """Return `(H, W)` in pixels of padded images, `[B, H, W, 3]` or `[B, H/2, W/2, 12]`."""
    _, height, width, channels = images.shape
    side = 2 if channels == BLOCK_CHANNELS else 1  # of a block, in pixels
    return side * height, side * width


def batch_shapes(
    targets: TargetSpec,
    images: int,
    bucket: tuple[int, int],
    slots: int,
    pixels: type[np.uint8] | type[np.float32] = np.uint8,
    *,
    space_to_depth: bool = False,
) -> Batch:
    """Return a batch's shapes and dtypes (`jax.ShapeDtypeStruct`), as the pipeline makes them."""

    def array(dtype: type, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((images, *shape), dtype)

    height, width = bucket
    image_shape = (height // 2, width // 2, BLOCK_CHANNELS) if space_to_depth else (*bucket, 3)
    masks = semantic = None
    if targets.masks is not None:
        height, width = targets.masks.shape(bucket)
        masks = array(np.uint8, slots, height, -(-width // 8))
    if targets.semantic_stride is not None:
        semantic = array(np.uint8, *ImageMasks(targets.semantic_stride).shape(bucket))
    return Batch(
        images=array(pixels, *image_shape),
        image_size=array(np.int32, 2),
        boxes=array(np.float32, slots, 4),
        labels=array(np.int32, slots),
        valid=array(np.bool_, slots),
        index=array(np.int32),
        masks=masks,
        centers=array(np.float32, slots, 2) if targets.centers else None,
        semantic=semantic,
    )


def unpack_masks(batch: Batch, targets: TargetSpec) -> Batch:
    """Return the batch with bool masks, whether they were packed or not."""
    if batch.masks is None or targets.masks is None or batch.masks.dtype == bool:
        return batch
    _, width = targets.masks.shape(padded_shape(batch.images))
    return batch._replace(masks=jnp.unpackbits(batch.masks, axis=-1, count=width).astype(bool))


class EvalBatch(NamedTuple):
    """Images to predict on (NumPy), and the sizes that map predictions back to the originals.

    A batch that was filled up to its static size marks the fillers with `valid = False`.
    """

    images: UInt8[np.ndarray, "B H W 3"] | Float[np.ndarray, "B H W 3"]
    image_size: Int[np.ndarray, "B 2"]
    original_size: Int[np.ndarray, "B 2"]  # (height, width) of the image as read
    image_id: Int[np.ndarray, " B"]
    valid: Bool[np.ndarray, " B"]


class Detections(NamedTuple):
    """The output of `predict`: up to D instances an image, best score first.

    Slots with `valid = False` hold zeros. `masks` (probabilities) and their frame are None for
    models without masks, `semantic` for models without a semantic head, and `panoptic_merging` for
    models that are not panoptic.
    """

    boxes: Float[Array, "B D 4"]
    scores: Float[Array, "B D"]
    labels: Int[Array, "B D"]
    valid: Bool[Array, "B D"]
    masks: Float[Array, "B D h w"] | None = None
    mask_frame: MaskFrame | None = None
    semantic: Float[Array, "B h w C"] | None = None
    """Logits of each class in each cell of the padded image at a stride. Of a panoptic model, first
    the stuff classes in the order of their labels, last all things as one class. Border cells are
    repeated into the padding, so that resizing the map never reads it."""
    panoptic_merging: PanopticMerging | None = None


class LossTerm(NamedTuple):
    """One loss as a sum and a count, never a mean.

    The step adds `total` and `count` over all devices and uses
    `weight * total / (count + offset)`. Dividing on each device and averaging afterwards would
    give another number wherever devices hold different counts of positives. `count` must not
    depend on the parameters.
    """

    total: Float[Array, ""]
    count: Float[Array, ""]  # type: ignore[assignment]  # shadows tuple.count
    weight: float = 1.0
    offset: float = 0.0


class Average(NamedTuple):
    """A metric as a sum and a count; the step logs `total / count` over all devices."""

    total: Float[Array, ""]
    count: Float[Array, ""]  # type: ignore[assignment]  # shadows tuple.count


class Losses(NamedTuple):
    """The output of `loss`: the terms to minimise, metrics to log, and the model's new state."""

    terms: dict[str, LossTerm]
    metrics: dict[str, Average]
    """No metric has the name of a term."""
    state: Mapping[str, Any]
    """The collections of the variables other than `"params"`, such as running statistics."""
