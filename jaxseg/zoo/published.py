"""The published models of other codebases, as configs.

Each says what its checkpoints were trained with; `num_classes` is COCO's, which torchvision
counts as the 90 category ids and the others as the 80 categories there are.
"""

import dataclasses

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.pixels import MSRA_PIXELS, PixelConfig
from jaxseg.nn.resnet import ResNetConfig

TORCHVISION_R50_FPN = MaskRCNNConfig(
    num_classes=90,
    # Torchvision sets the epsilon of its published COCO_V1 weights to 0; it is 1e-5 otherwise.
    backbone=ResNetConfig(depth=50, norm_epsilon=0.0, freeze_at=2),
    rpn=RPNConfig(round_anchors=True, min_size=1e-3, post_nms_topk_train=2000),
    roi_align=RoIAlignConfig(aligned=False, sampling_ratio=2),
    box=BoxHeadConfig(min_size=1e-2),
    mask=MaskHeadConfig(logit_init_std=None, mask_targets="soft", paste="integer"),
    predict_background=True,
)
"""`maskrcnn_resnet50_fpn`, weights COCO_V1."""

TORCHVISION_R50_FPN_V2 = dataclasses.replace(
    TORCHVISION_R50_FPN,
    backbone=ResNetConfig(depth=50, norm="sync_batch"),
    head_norm="sync_batch",
    rpn=dataclasses.replace(TORCHVISION_R50_FPN.rpn, num_convs=2),
    box=dataclasses.replace(TORCHVISION_R50_FPN.box, num_convs=4, num_fc=1),
)
"""`maskrcnn_resnet50_fpn_v2`, weights COCO_V1 (Li et al. 2021, arXiv 2111.11429)."""

DETECTRON2_R50_FPN = MaskRCNNConfig(
    pixels=MSRA_PIXELS,
    backbone=ResNetConfig(depth=50, stride_in_1x1=True, freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0),
    roi_align=RoIAlignConfig(aligned=True, sampling_ratio=0),
    box=BoxHeadConfig(smooth_l1_beta=0.0),
    mask=MaskHeadConfig(mask_targets="binary"),
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
    backbone=ResNetConfig(depth=50, norm="norm_eval", freeze_at=2),
    rpn=RPNConfig(smooth_l1_beta=0.0, min_pos_iou=0.3, low_quality_overrides=True),
    mask=MaskHeadConfig(logit_init_std=None, mask_targets="binary"),
)
"""`mask-rcnn_r50_fpn_1x_coco` and `_2x`."""

MMDET_SOLOV2_R50 = SOLOv2Config(backbone=ResNetConfig(depth=50, norm="norm_eval", freeze_at=2))
"""`solov2_r50_fpn_1x_coco` and `_ms-3x_coco`; the authors' own models too."""

MMDET_SOLOV2_R101 = dataclasses.replace(
    MMDET_SOLOV2_R50, backbone=ResNetConfig(depth=101, norm="norm_eval", freeze_at=2)
)
"""`solov2_r101_fpn_ms-3x_coco`."""

MMDET_SOLOV2_LIGHT_R50 = dataclasses.replace(
    MMDET_SOLOV2_R50,
    scale_ranges=((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0)),
    num_head_convs=2,
    head_channels=256,
    mask_out_channels=128,
)
"""`solov2-light_r50_fpn_ms-3x_coco`, for images with a shorter side of 448."""

MMDET_SOLOV2_LIGHT_R34 = dataclasses.replace(
    MMDET_SOLOV2_LIGHT_R50, backbone=ResNetConfig(depth=34, norm="norm_eval", freeze_at=2)
)
"""`solov2-light_r34_fpn_ms-3x_coco`."""

MMDET_SOLOV2_LIGHT_R18 = dataclasses.replace(
    MMDET_SOLOV2_LIGHT_R50, backbone=ResNetConfig(depth=18, norm="norm_eval", freeze_at=2)
)
"""`solov2-light_r18_fpn_ms-3x_coco`."""

ADELAIDET_SOLOV2_R50 = dataclasses.replace(
    MMDET_SOLOV2_R50,
    pixels=MSRA_PIXELS,
    backbone=ResNetConfig(depth=50, stride_in_1x1=True, freeze_at=2),
)
"""`SOLOv2/R50_3x`."""

ADELAIDET_SOLOV2_R101 = dataclasses.replace(
    ADELAIDET_SOLOV2_R50, backbone=ResNetConfig(depth=101, stride_in_1x1=True, freeze_at=2)
)
"""`SOLOv2/R101_3x`."""

RESNETS = {
    "resnet18": ResNetConfig(depth=18),
    "resnet34": ResNetConfig(depth=34),
    "resnet50": ResNetConfig(depth=50),
    "resnet101": ResNetConfig(depth=101),
    "resnext50_32x4d": ResNetConfig(depth=50, groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetConfig(depth=101, groups=32, width_per_group=8),
}
"""ImageNet classifiers of torchvision and timm, by their names there."""

BY_NAME: dict[str, MaskRCNNConfig | SOLOv2Config] = {
    "maskrcnn_resnet50_fpn": TORCHVISION_R50_FPN,
    "maskrcnn_resnet50_fpn_v2": TORCHVISION_R50_FPN_V2,
    "detectron2_mask_rcnn_r50_fpn": DETECTRON2_R50_FPN,
    "detectron2_mask_rcnn_r101_fpn": DETECTRON2_R101_FPN,
    "detectron2_mask_rcnn_x101_32x8d_fpn": DETECTRON2_X101_FPN,
    "mmdet_mask_rcnn_r50_fpn": MMDET_R50_FPN,
    "mmdet_solov2_r50_fpn": MMDET_SOLOV2_R50,
    "mmdet_solov2_r101_fpn": MMDET_SOLOV2_R101,
    "mmdet_solov2_light_r18_fpn": MMDET_SOLOV2_LIGHT_R18,
    "mmdet_solov2_light_r34_fpn": MMDET_SOLOV2_LIGHT_R34,
    "mmdet_solov2_light_r50_fpn": MMDET_SOLOV2_LIGHT_R50,
    "solo_solov2_r50_fpn": MMDET_SOLOV2_R50,
    "adelaidet_solov2_r50_fpn": ADELAIDET_SOLOV2_R50,
    "adelaidet_solov2_r101_fpn": ADELAIDET_SOLOV2_R101,
}
"""The names by which `jaxseg weights import --arch` knows them."""
