"""RoI features: the pyramid pooled in boxes, for the heads of the R-CNN family.

Terms:
    RoI   a box whose features are pooled: a proposal in training, a detection for masks
    R     RoI slots of an image, padded
"""

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from jaxseg import ops
from jaxseg.nn.fpn import Pyramid
from jaxseg.nn.padding import level_extent


@dataclasses.dataclass(frozen=True)
class RoIAlignConfig:
    """How boxes are pooled; see `jaxseg.ops.multilevel_roi_align`.

    Detectron2 and MMDetection pool `aligned` and with `sampling_ratio=0`, as many samples as
    the box has cells; torchvision with 2 and not aligned, as the paper's authors did at first.
    """

    aligned: bool = True
    sampling_ratio: int = 2
    canonical_box_size: float = 224.0
    """Side of the box that is pooled from P4."""


def pool(
    config: RoIAlignConfig,
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    padded_size: Int[Array, "B 2"],
    size: int,
) -> Float[Array, "BR p p C"]:
    """RoIAlign from the level that fits each box (P2 to P5), all images' RoIs in one axis."""
    levels = {stride: x for stride, x in pyramid.items() if stride <= 32}
    extent = {stride: level_extent(padded_size, stride) for stride in levels}

    def one_image(levels: dict[int, Array], boxes: Array, extent: dict[int, Array]) -> Array:
        return ops.multilevel_roi_align(
            levels,
            boxes,
            output_size=(size, size),
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
            canonical_size=config.canonical_box_size,
            extent=extent,
        )

    pooled = jax.vmap(one_image)(levels, boxes, extent)
    return pooled.reshape(-1, *pooled.shape[2:]).astype(next(iter(levels.values())).dtype)
