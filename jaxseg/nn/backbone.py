"""The protocol of backbones: images to feature maps at several strides."""

from typing import Protocol, runtime_checkable

from flax import linen as nn
from jaxtyping import Array, Float

FeatureMaps = dict[int, Float[Array, "B _ _ _"]]
"""Feature maps by stride, finest first, each zero outside the images' padded size."""


@runtime_checkable
class BackboneConfig(Protocol):
    """A frozen dataclass of a backbone's settings; `jaxseg.nn.resnet.ResNetConfig` is one."""

    def build(self) -> nn.Module:
        """Return the backbone's layers.

        They are called with `images [B, H, W, 3]` (normalised, zero in the padding; or blocks of
        2x2 pixels, with `jaxseg.data.DataConfig.space_to_depth`),
        `padded_size [B, 2]` (see `jaxseg.nn.padding`) and `train`, and return `FeatureMaps`.
        """
        ...

    def is_frozen(self, layer: str) -> bool:
        """Return whether the layer of this name, at the top of the backbone, is not trained."""
        ...
