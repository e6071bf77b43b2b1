"""The protocol that every model implements: three pure functions and the targets that they require.

`variables` is a dict of collections: `"params"`, which the optimiser changes, and the state that
the model keeps beside it (running statistics, frozen layers). Linen modules are an implementation
detail of a model: callers pass and receive pytrees of arrays.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxseg.types import Batch, Detections, Losses, TargetSpec, padded_shape

BATCH_AXIS = "batch"
"""Name of the mapped axis over which the images of a global batch are split."""

Variables = Mapping[str, Any]


class InitFn(Protocol):
    def __call__(self, key: jax.Array, batch_or_shape: Batch | tuple[int, ...], /) -> Variables:
        """Return random variables for images of a batch's shape, or of the shape `[B, H, W, 3]`."""
        ...


class LossFn(Protocol):
    def __call__(self, variables: Variables, batch: Batch, key: jax.Array, /) -> Losses:
        """Return the losses of one device's share of a global batch.

        Runs where the axis `BATCH_AXIS` is mapped. Random draws for image i use `key` and
        `batch.index[i]` alone. Raises ValueError if the batch lacks a field of the model's targets.
        """
        ...


class PredictFn(Protocol):
    def __call__(
        self, variables: Variables, images: jax.Array, image_size: jax.Array, /
    ) -> Detections:
        """Return the detections in `images [B, H, W, 3]` (RGB, 0 to 255, padded right and below).

        `image_size [B, 2]` is each image's true `(height, width)`.
        """
        ...


class Model(NamedTuple):
    """A model as pure functions, like `optax.GradientTransformation`; a `ModelConfig` builds it."""

    init: InitFn
    loss: LossFn
    predict: PredictFn
    targets: TargetSpec


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen dataclass of a model's settings. It holds no arrays and can be written as JSON."""

    @property
    def num_classes(self) -> int:
        """Return the number of classes, without a background."""
        ...

    @property
    def backbone(self) -> Any:
        """Return the config of the backbone, a `jaxseg.nn.backbone.BackboneConfig`."""
        ...

    def build(self) -> Model:
        """Return the model."""
        ...


@runtime_checkable
class PanopticModelConfig(ModelConfig, Protocol):
    """The config of a panoptic model: its `num_classes` are things, and it has stuff beside."""

    @property
    def num_stuff_classes(self) -> int:
        """Return the number of stuff classes, which have the labels after those of things."""
        ...


def num_labels(config: ModelConfig) -> int:
    """Return the number of labels: of the classes, and of stuff where the model is panoptic."""
    stuff = config.num_stuff_classes if isinstance(config, PanopticModelConfig) else 0
    return config.num_classes + stuff


def image_shape(batch_or_shape: Batch | tuple[int, ...]) -> tuple[int, ...]:
    """Return `(B, H, W, 3)` of a batch's images, or the shape itself."""
    if isinstance(batch_or_shape, Batch):
        return (len(batch_or_shape.images), *padded_shape(batch_or_shape.images), 3)
    return tuple(batch_or_shape)
