"""The published Mask R-CNNs of other codebases, as configs.

Each says what its checkpoints were trained with; `num_classes` is COCO's, which torchvision
counts as the 90 category ids and the others as the 80 categories there are.
"""

import dataclasses

from jaxseg.models.box_head import BoxHeadConfig
from jaxseg.models.mask_head import MaskHeadConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.roi_pool import RoIAlignConfig
from jaxseg.models.rpn import RPNConfig
from jaxseg.nn.pixels import MSRA_PIXELS, PixelConfig
from jaxseg.nn.resnet import ResNetConfig

TORCHVISION_R50_FPN = MaskRCNNConfig(
    num_classes=90,
    # Torchvision sets the epsilon of its published COCO_V1 weights to 0; it is 1e-5 otherwise.
    backbone=ResNetConfig(depth=50, norm_epsilon=0.0, freeze_at=2),
    rpn=RPNConfig(rounded_anchors=True, min_box_size=1e-3, train_proposals=2000),
    roi_align=RoIAlignConfig(aligned=False, sampling_ratio=2),
    box=BoxHeadConfig(min_box_size=1e-2),
    mask=MaskHeadConfig(logit_std=None, targets="soft_bitmap", paste="whole_pixel_box"),
    background_outputs=True,
)
"""`maskrcnn_resnet50_fpn`, weights COCO_V1."""

TORCHVISION_R50_FPN_V2 = dataclasses.replace(
    TORCHVISION_R50_FPN,
    backbone=ResNetConfig(depth=50, norm="batch"),
    head_norm="batch",
    rpn=dataclasses.replace(TORCHVISION_R50_FPN.rpn, convs=2),
    box=dataclasses.replace(TORCHVISION_R50_FPN.box, convs=4, hidden_layers=1),
)
"""`maskrcnn_resnet50_fpn_v2`, weights COCO_V1 (Li et al. 2021, arXiv 2111.11429)."""

DETECTRON2_R50_FPN = MaskRCNNConfig(
    pixels=MSRA_PIXELS,
    backbone=ResNetConfig(depth=50, stride_in_1x1=True, freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0),
    roi_align=RoIAlignConfig(aligned=True, sampling_ratio=0),
    box=BoxHeadConfig(smooth_l1_beta=0.0),
    mask=MaskHeadConfig(targets="bitmap"),
)
"""`mask_rcnn_R_50_FPN_1x` and `_3x`."""

DETECTRON2_R101_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN, backbone=ResNetConfig(depth=101, stride_in_1x1=True, freeze_at=2)
)
"""`mask_rcnn_R_101_FPN_3x`."""

DETECTRON2_X101_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN,
    pixels=PixelConfig((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "bgr"),
    backbone=ResNetConfig(depth=101, groups=32, width_per_group=8, freeze_at=2),
)
"""`mask_rcnn_X_101_32x8d_FPN_3x`."""

MMDET_R50_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN,
    pixels=PixelConfig(),
    backbone=ResNetConfig(depth=50, freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0, low_quality_iou=0.3, claims=True),
    mask=MaskHeadConfig(logit_std=None, targets="bitmap"),
)
"""`mask-rcnn_r50_fpn_1x_coco` and `_2x`."""

RESNETS = {
    "resnet18": ResNetConfig(depth=18),
    "resnet34": ResNetConfig(depth=34),
    "resnet50": ResNetConfig(depth=50),
    "resnet101": ResNetConfig(depth=101),
    "resnext50_32x4d": ResNetConfig(depth=50, groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetConfig(depth=101, groups=32, width_per_group=8),
}
"""ImageNet classifiers of torchvision and timm, by their names there."""

BY_NAME = {
    "maskrcnn_resnet50_fpn": TORCHVISION_R50_FPN,
    "maskrcnn_resnet50_fpn_v2": TORCHVISION_R50_FPN_V2,
    "detectron2_mask_rcnn_r50_fpn": DETECTRON2_R50_FPN,
    "detectron2_mask_rcnn_r101_fpn": DETECTRON2_R101_FPN,
    "detectron2_mask_rcnn_x101_32x8d_fpn": DETECTRON2_X101_FPN,
    "mmdet_mask_rcnn_r50_fpn": MMDET_R50_FPN,
}
"""The names by which `jaxseg weights import --arch` knows them."""
