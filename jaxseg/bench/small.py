"""Tiny models that compile in seconds: they show that everything runs."""

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Int

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.model import ModelConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig, SemanticHeadConfig
from jaxseg.models.solov2 import SOLOv2Config


@dataclasses.dataclass(frozen=True)
class SmallBackbone:
    """A convolution for each stage."""

    width: int = 8

    def build(self) -> nn.Module:
        """Return the layers."""
        return SmallBackboneLayers(self.width)

    def is_frozen(self, layer: str) -> bool:
        """Return False: all layers are trained."""
        del layer
        return False


class SmallBackboneLayers(nn.Module):
    """Images to `{4: C2, 8: C3, 16: C4, 32: C5}`, without regard to padding."""

    width: int

    @nn.compact
    def __call__(self, images: Array, padded_size: Int[Array, "B 2"], train: bool) -> Any:
        del padded_size, train
        maps, x = {}, images
        for stage, stride in enumerate((4, 8, 16, 32), start=1):
            step = 4 if stage == 1 else 2
            conv = nn.Conv(
                self.width * stage, (3, 3), (step, step), 1, dtype=x.dtype, name=f"stage{stage}"
            )
            x = nn.relu(conv(x))
            maps[stride] = x
        return maps


_MASK_RCNN = MaskRCNNConfig(
    num_classes=5,
    backbone=SmallBackbone(),
    fpn_channels=16,
    rpn=RPNConfig(
        pre_nms_topk_train=24,
        pre_nms_topk_test=24,
        post_nms_topk_train=20,
        post_nms_topk_test=20,
        batch_size_per_image=32,
    ),
    box=BoxHeadConfig(fc_dim=32, batch_size_per_image=16, detections_per_image=8),
    mask=MaskHeadConfig(num_convs=1, conv_dim=16),
)

SMALL_MODELS: dict[str, ModelConfig] = {
    "small_mask_rcnn": _MASK_RCNN,
    "small_panoptic_fpn": PanopticFPNConfig(
        **vars(_MASK_RCNN),
        num_stuff_classes=3,
        semantic=SemanticHeadConfig(conv_dim=16, norm_groups=4),
    ),
    "small_solov2": SOLOv2Config(
        num_classes=5,
        backbone=SmallBackbone(),
        fpn_channels=16,
        num_grids=(8, 6, 5, 4, 3),
        num_head_convs=1,
        head_channels=16,
        mask_feat_channels=16,
        mask_out_channels=16,
        norm_groups=4,
        max_positives=16,
        pre_nms_topk=20,
        detections_per_image=8,
    ),
}
"""The models of `--small` by name."""
