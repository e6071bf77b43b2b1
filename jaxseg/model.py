"""The protocol every model fulfils: a value of three pure functions and one statement.

    init(key, batch_or_shape)                 -> variables
    loss(variables, batch, key)               -> ({name: LossTerm}, new_state)
    predict(variables, images, image_size)    -> Detections
    needs                                     the masks its batches must carry

`variables` is a dict of collections: `"params"`, which the optimiser changes, and whatever
state the model keeps beside it (running statistics). `new_state` holds those other
collections after the batch. Linen modules live inside a model; nobody outside sees them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxseg.types import Batch, Detections, LossTerm, MaskSpec

BATCH_AXIS = "batch"
"""Name of the mapped axis over which the images of a global batch are split."""

Variables = Mapping[str, Any]


class Model(NamedTuple):
    """See the module's text; `jaxseg.models` holds the ones there are."""

    init: Callable[[jax.Array, Batch | tuple[int, ...]], Variables]
    loss: Callable[[Variables, Batch, jax.Array], tuple[dict[str, LossTerm], Variables]]
    predict: Callable[[Variables, jax.Array, jax.Array], Detections]
    needs: MaskSpec


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen dataclass of a model's choices. It carries no arrays and can be written down."""

    @property
    def num_classes(self) -> int: ...

    @property
    def backbone(self) -> Any:
        """The config of its backbone, `jaxseg.nn.resnet.ResNetConfig` for now."""
        ...

    def build(self) -> Model: ...


def image_shape(batch_or_shape: Batch | tuple[int, ...]) -> tuple[int, ...]:
    """The `(B, H, W, 3)` of the images of a batch, or the shape itself."""
    if isinstance(batch_or_shape, Batch):
        return tuple(batch_or_shape.images.shape)
    return tuple(batch_or_shape)
