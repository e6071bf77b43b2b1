"""PointRend in MMDetection and Detectron2: published models and names of arrays.

All but the masks is a Mask R-CNN with the names of one.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np

from jaxseg.heads.rcnn import two_stage_settings
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.models.point_rend import PointRendConfig
from jaxseg.zoo import mask_rcnn
from jaxseg.zoo.engine import DENSE, Entry, Layout, layer_entries
from jaxseg.zoo.record import NameTable, Preprocessing, ZooModel

DETECTRON2_R50_FPN = PointRendConfig(**two_stage_settings(mask_rcnn.DETECTRON2_R50_FPN))

MMDET_R50_CAFFE_FPN = dataclasses.replace(
    DETECTRON2_R50_FPN, rpn=mask_rcnn.MMDET_R50_FPN.rpn, box=mask_rcnn.MMDET_R50_FPN.box
)
"""Its backbone is Detectron2's, converted: MMDetection calls these layers and pixels "caffe"."""

RECORDS = (
    ZooModel(
        name="mmdet_point_rend_r50_caffe_fpn",
        config=MMDET_R50_CAFFE_FPN,
        codebase="mmdet",
        preprocessing=Preprocessing("cv2"),
        checkpoint="MMDetection, point-rend_r50-caffe_fpn_ms-3x_coco (ms-1x: 36.3 / 38.4)",
        mask_ap=38.0,
        box_ap=41.0,
        parameters=60_161_792,
        gmacs=296,
        experiment="point_rend_r50_fpn_1x",
    ),
    ZooModel(
        name="detectron2_point_rend_r50_fpn",
        config=DETECTRON2_R50_FPN,
        codebase="detectron2",
        preprocessing=Preprocessing("pillow"),
        checkpoint="Detectron2, PointRend project, pointrend_rcnn_R_50_FPN_3x_coco (1x: 36.2)",
        mask_ap=38.3,
        box_ap=None,
        parameters=60_161_792,
        gmacs=296,
    ),
)

DOWNSAMPLE = Layout(
    lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    lambda x: x.reshape(2, 2, -1, x.shape[1]).transpose(3, 2, 0, 1),
)
"""A 2x2 convolution of stride 2 (OIHW) as a dense layer on four cells."""

CONV1D = Layout(lambda x: x[:, :, 0].T, lambda x: x.T[:, :, None])
"""A convolution of points (OI1) as a dense layer."""


def _mask_logits(config: PointRendConfig) -> tuple[Layout, Layout]:
    """Return the layouts of a dense layer's kernel and bias: CHW in the source, HWC in jaxseg."""
    side, classes = config.coarse.pooler_resolution // 2, config.num_classes

    def from_source(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(classes, side, side, -1), 0, 2).reshape(x.shape)

    def to_source(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(side, side, classes, -1), 2, 0).reshape(x.shape)

    return (
        Layout(lambda x: from_source(x).T, lambda x: to_source(x.T)),
        Layout(from_source, to_source),
    )


def _mask_entries(
    config: PointRendConfig,
    *,
    coarse: str,
    downsample: str,
    coarse_fc: Callable[[int], str],
    coarse_logits: str,
    point: str,
    point_fc: Callable[[int], str],
    point_logits: str,
) -> Iterator[Entry]:
    """Yield the entries of both heads, given the names of their layers."""
    ours = ("coarse_head",)
    yield from layer_entries(f"{coarse}.{downsample}", (*ours, "downsample"), DOWNSAMPLE)
    flattened = mask_rcnn.flattened(config.coarse.pooler_resolution // 2)
    for number in range(config.coarse.num_fc):
        layout = flattened if number == 0 else DENSE
        name = f"{coarse}.{coarse_fc(number)}"
        yield from layer_entries(name, (*ours, f"hidden{number + 1}"), layout)
    layouts = _mask_logits(config)
    yield from layer_entries(f"{coarse}.{coarse_logits}", (*ours, "logit"), *layouts)
    ours = ("point_head",)
    for number in range(config.point.num_fc):
        name = f"{point}.{point_fc(number)}"
        yield from layer_entries(name, (*ours, f"hidden{number + 1}"), CONV1D)
    yield from layer_entries(f"{point}.{point_logits}", (*ours, "logit"), CONV1D)


def _shared_entries(
    config: PointRendConfig, table: Callable[[MaskRCNNConfig], Iterator[Entry]]
) -> Iterator[Entry]:
    """Yield a Mask R-CNN's entries but for its mask head's."""
    same_layers = MaskRCNNConfig(**two_stage_settings(config))
    return (entry for entry in table(same_layers) if entry.path[1] != "mask_head")


def mmdet_table(config: PointRendConfig) -> Iterator[Entry]:
    """Yield the names of MMDetection's `point_rend_r50_caffe_fpn` and its relatives."""
    yield from _shared_entries(config, mask_rcnn.mmdet_table)
    yield from _mask_entries(
        config,
        coarse="roi_head.mask_head",
        downsample="downsample_conv.conv",
        coarse_fc=lambda number: f"fcs.{number}",
        coarse_logits="fc_logits",
        point="roi_head.point_head",
        point_fc=lambda number: f"fcs.{number}.conv",
        point_logits="fc_logits",
    )


def detectron2_table(config: PointRendConfig) -> Iterator[Entry]:
    """Yield the names of Detectron2's `pointrend_rcnn_R_50_FPN` and its relatives."""
    yield from _shared_entries(config, mask_rcnn.detectron2_table)
    yield from _mask_entries(
        config,
        coarse="roi_heads.mask_head.coarse_head",
        downsample="reduce_spatial_dim_conv",
        coarse_fc=lambda number: f"fc{number + 1}",
        coarse_logits="prediction",
        point="roi_heads.mask_head.point_head",
        point_fc=lambda number: f"fc{number + 1}",
        point_logits="predictor",
    )


_OLD_DETECTRON2 = re.compile(r"roi_heads\.mask_(coarse|point)_head\.(?:coarse_mask_)?(.*)")


def current_detectron2_name(name: str) -> str:
    """Return the present name of an array from before Detectron2's `PointRendMaskHead`.

    >>> current_detectron2_name("roi_heads.mask_coarse_head.coarse_mask_fc1.bias")
    'roi_heads.mask_head.coarse_head.fc1.bias'
    """
    found = _OLD_DETECTRON2.fullmatch(name)
    return f"roi_heads.mask_head.{found[1]}_head.{found[2]}" if found else name


TABLES = {
    "mmdet": NameTable(mmdet_table, "roi_head."),
    "detectron2": NameTable(detectron2_table, "backbone.bottom_up.", current_detectron2_name),
}
"""The names by codebase."""
