"""RoI features for the heads of the R-CNN family, pooled from a feature pyramid.

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
from jaxseg.ops.roi_align import Method

MAX_STRIDE = 32
"""Stride of P5, the coarsest level that RoIs are pooled from (Lin et al. 2017, section 4.2)."""


@dataclasses.dataclass(frozen=True)
class RoIAlignConfig:
    """Settings of the pooling; see `jaxseg.ops.multilevel_roi_align`.

    Detectron2 and MMDetection pool `aligned` and with `sampling_ratio=0`, as many samples as
    the box has cells; torchvision with 2 and not aligned, as the paper's authors did at first.
    """

    aligned: bool = True
    sampling_ratio: int = 2
    canonical_box_size: float = 224.0
    """Side of the box that is pooled from P4."""
    method: Method = "auto"
    """How the features are computed: "taps" gathers cells, "tiles" multiplies matrices, "auto" is
    "tiles" on a TPU and "taps" elsewhere (`jaxseg.ops.roi_align`). Changes rounding, nothing
    else."""


def pool_rois(
    config: RoIAlignConfig,
    pyramid: Pyramid,
    boxes: Float[Array, "B R 4"],
    padded_size: Int[Array, "B 2"],
    resolution: int,
) -> Float[Array, "BR p p C"]:
    """Pool each box by RoIAlign from the level that fits it (P2 to P5).

    Returns the RoIs of all images on one axis, `p = resolution`, in the pyramid's dtype.
    """
    levels = {stride: x for stride, x in pyramid.items() if stride <= MAX_STRIDE}
    extents = {stride: level_extent(padded_size, stride) for stride in levels}

    def one_image(levels: dict[int, Array], boxes: Array, extents: dict[int, Array]) -> Array:
        return ops.multilevel_roi_align(
            levels,
            boxes,
            output_size=(resolution, resolution),
            sampling_ratio=config.sampling_ratio,
            aligned=config.aligned,
            canonical_box_size=config.canonical_box_size,
            extent=extents,
            method=config.method,
        )

    pooled = jax.vmap(one_image)(levels, boxes, extents)  # [B, R, p, p, C]
    return pooled.reshape(-1, *pooled.shape[2:]).astype(next(iter(levels.values())).dtype)
