"""The zoo's records: their parameters, names of arrays and documentation."""

import functools
import importlib.util
import operator

import jax
import numpy as np
import pytest

from jaxseg.data import DataConfig, Shapes
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.pixels import PixelConfig
from jaxseg.types import HeuristicMerging
from jaxseg.zoo import MODELS
from jaxseg.zoo.load import TABLES
from tests.conftest import ROOT


@functools.cache
def shapes(name):
    init = MODELS[name].config.build().init
    return jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_as_many_as_recorded(name):
    variables = shapes(name)
    leaves = jax.tree.leaves([variables["params"], variables.get("frozen", {})])
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == MODELS[name].parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_codebase_has_a_name_for_every_array(name):
    record = MODELS[name]
    entries = list(TABLES[type(record.config)][record.codebase].entries(record.config))
    assert len({entry.name for entry in entries}) == len(entries)
    assert any(
        entry.name.startswith(TABLES[type(record.config)][record.codebase].prefix)
        for entry in entries
    )
    arrays = jax.tree.leaves(shapes(name))
    assert len(entries) == len(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_preprocessing_and_experiment_exist(name):
    record = MODELS[name]
    preprocessing = record.preprocessing
    DataConfig(
        Shapes(),
        preprocessing.buckets,
        preprocessing.min_size,
        preprocessing.max_size,
        preprocessing.resize_backend,
    )
    if record.experiment:
        file = record.experiment.partition(", ")[0]
        assert (ROOT / "experiments" / f"{file}.py").is_file()


IMAGENET_RGB = (123.675, 116.28, 103.53)
TORCHVISION_PIXELS = PixelConfig(IMAGENET_RGB, (58.395, 57.12, 57.375), "rgb")
CAFFE_PIXELS = PixelConfig(IMAGENET_RGB, (1.0, 1.0, 1.0), "bgr")
"""Detectron2's PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT, with the means in the order RGB."""
COMMON = {
    "fpn_channels": 256,
    "size_divisibility": 32,
    "rpn.anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0),
    "rpn.aspect_ratios": (0.5, 1.0, 2.0),
    "rpn.positive_iou": 0.7,
    "rpn.negative_iou": 0.3,
    "rpn.positive_fraction": 0.5,
    "rpn.batch_size_per_image": 256,
    "rpn.nms_threshold": 0.7,
    "box.batch_size_per_image": 512,
    "box.positive_fraction": 0.25,
    "box.positive_iou": 0.5,
    "box.bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
    "box.score_threshold": 0.05,
    "box.nms_threshold": 0.5,
    "box.detections_per_image": 100,
    "box.conv_dim": 256,
    "box.fc_dim": 1024,
    "box.pooler_resolution": 7,
    "box.cls_agnostic_bbox_reg": False,
    "mask.num_convs": 4,
    "mask.conv_dim": 256,
    "mask.pooler_resolution": 14,
    "mask.cls_agnostic_mask": False,
    "roi_align.canonical_box_size": 224.0,
    "backbone.freeze_at": 2,
}
TORCHVISION = COMMON | {
    # `overwrite_eps(model, 0.0)` for COCO_V1 weights, `min_size=1e-3` in `RegionProposalNetwork`,
    # `remove_small_boxes(boxes, min_size=1e-2)` in `RoIHeads`, `smooth_l1_loss(beta=1 / 9)` twice.
    "pixels": TORCHVISION_PIXELS,
    "backbone.norm_epsilon": 0.0,
    "backbone.stride_in_1x1": False,
    "rpn.round_anchors": True,
    "rpn.min_size": 1e-3,
    "rpn.smooth_l1_beta": 1 / 9,
    "rpn.pre_nms_topk_train": 2000,
    "rpn.post_nms_topk_train": 2000,
    "rpn.pre_nms_topk_test": 1000,
    "rpn.post_nms_topk_test": 1000,
    "roi_align.aligned": False,
    "roi_align.sampling_ratio": 2,
    "box.min_size": 1e-2,
    "box.smooth_l1_beta": 1 / 9,
    "mask.paste": "integer",
    "predict_background": True,
}
DETECTRON2 = COMMON | {
    # SMOOTH_L1_BETA 0.0 of the RPN and of the box head, POOLER_TYPE ROIAlignV2 (aligned) with
    # POOLER_SAMPLING_RATIO 0, and `FrozenBatchNorm2d(eps=1e-5)`.
    "pixels": CAFFE_PIXELS,
    "backbone.norm": "frozen",
    "backbone.norm_epsilon": 1e-5,
    "backbone.stride_in_1x1": True,
    "rpn.round_anchors": False,
    "rpn.min_size": 0.0,
    "rpn.min_pos_iou": 0.0,
    "rpn.low_quality_overrides": False,
    "rpn.smooth_l1_beta": 0.0,
    "rpn.pre_nms_topk_train": 2000,
    "rpn.post_nms_topk_train": 1000,
    "rpn.pre_nms_topk_test": 1000,
    "rpn.post_nms_topk_test": 1000,
    "roi_align.aligned": True,
    "roi_align.sampling_ratio": 0,
    "box.min_size": 0.0,
    "box.smooth_l1_beta": 0.0,
    "box.low_quality_overrides": False,
    "mask.logit_init_std": 0.001,
    "mask.paste": "grid_sample",
    "predict_background": False,
}
MMDETECTION = DETECTRON2 | {
    # PyTorch's ResNet-50; `min_pos_iou=0.3` of the RPN's assigner and `match_low_quality=True` of
    # the box head's; `L1Loss` twice.
    "pixels": TORCHVISION_PIXELS,
    "backbone.norm": "norm_eval",
    "backbone.stride_in_1x1": False,
    "rpn.min_pos_iou": 0.3,
    "rpn.low_quality_overrides": True,
    "box.low_quality_overrides": True,
    "mask.logit_init_std": None,
}
STUFF = {"num_classes": 80, "num_stuff_classes": 53, "semantic.conv_dim": 128}
DETECTRON2_PANOPTIC = (
    DETECTRON2
    | STUFF
    | {
        # MODEL.SEM_SEG_HEAD and MODEL.PANOPTIC_FPN.COMBINE.
        "semantic.loss_weight": 0.5,
        "semantic.norm_groups": 32,
        "semantic.count_ignored": False,
        "merging": HeuristicMerging(score_threshold=0.5, max_overlap=0.5, min_stuff_area=4096),
        "box.cls_agnostic_nms": False,
    }
)
MMDETECTION_PANOPTIC = (
    MMDETECTION
    | STUFF
    | {
        # `avg_non_ignore` of its cross-entropy is false; `test_cfg.rcnn` and `test_cfg.panoptic`.
        "semantic.loss_weight": 0.5,
        "semantic.norm_groups": 32,
        "semantic.count_ignored": True,
        "box.score_threshold": 0.6,
        "box.cls_agnostic_nms": True,
        "merging": HeuristicMerging(score_threshold=0.6, max_overlap=0.5, min_stuff_area=4096),
    }
)
MASK_RCNN_SETTINGS = {
    "maskrcnn_resnet50_fpn": TORCHVISION | {"backbone.depth": 50, "backbone.norm": "frozen"},
    # The second version is trained whole, with running statistics: `norm_layer=nn.BatchNorm2d`.
    "maskrcnn_resnet50_fpn_v2": TORCHVISION
    | {
        "backbone.depth": 50,
        "backbone.norm": "sync_batch",
        "backbone.norm_epsilon": 1e-5,
        "backbone.freeze_at": 0,
        "head_norm": "sync_batch",
        "rpn.num_convs": 2,
        "box.num_convs": 4,
        "box.num_fc": 1,
    },
    "detectron2_mask_rcnn_r50_fpn": DETECTRON2 | {"backbone.depth": 50},
    "detectron2_mask_rcnn_r101_fpn": DETECTRON2 | {"backbone.depth": 101},
    "detectron2_mask_rcnn_x101_32x8d_fpn": DETECTRON2
    | {
        "pixels": PixelConfig(IMAGENET_RGB, (58.395, 57.12, 57.375), "bgr"),
        "backbone.depth": 101,
        "backbone.groups": 32,
        "backbone.width_per_group": 8,
        "backbone.stride_in_1x1": False,
    },
    "mmdet_mask_rcnn_r50_fpn": MMDETECTION | {"backbone.depth": 50},
    "detectron2_panoptic_fpn_r50": DETECTRON2_PANOPTIC | {"backbone.depth": 50},
    "detectron2_panoptic_fpn_r101": DETECTRON2_PANOPTIC | {"backbone.depth": 101},
    "mmdet_panoptic_fpn_r50_fpn": MMDETECTION_PANOPTIC | {"backbone.depth": 50},
    "mmdet_panoptic_fpn_r101_fpn": MMDETECTION_PANOPTIC | {"backbone.depth": 101},
}


POINT_REND = {
    # The defaults of `add_pointrend_config`, and the same in MMDetection's config.
    "coarse.pooler_resolution": 14,
    "coarse.conv_dim": 256,
    "coarse.num_fc": 2,
    "coarse.fc_dim": 1024,
    "point.num_fc": 3,
    "point.fc_dim": 256,
    "point.train_num_points": 14 * 14,
    "point.oversample_ratio": 3,
    "point.importance_sample_ratio": 0.75,
    "point.subdivision_steps": 5,
    "point.subdivision_num_points": 28 * 28,
    "backbone.depth": 50,
}
CAFFE = {key: DETECTRON2[key] for key in ("pixels", "backbone.norm", "backbone.stride_in_1x1")}


def without_mask_head(settings):
    return {k: v for k, v in settings.items() if k[:5] != "mask." and k != "predict_background"}


POINT_REND_SETTINGS = {
    "detectron2_point_rend_r50_fpn": without_mask_head(DETECTRON2) | POINT_REND,
    "mmdet_point_rend_r50_caffe_fpn": without_mask_head(MMDETECTION) | CAFFE | POINT_REND,
}


@pytest.mark.parametrize("name", MASK_RCNN_SETTINGS | POINT_REND_SETTINGS)
def test_published_models_have_their_sources_settings(name):
    config = MODELS[name].config
    expected = (MASK_RCNN_SETTINGS | POINT_REND_SETTINGS)[name]
    assert {path: operator.attrgetter(path)(config) for path in expected} == expected


def test_every_published_mask_rcnn_has_its_settings_stated():
    named = {name for name, record in MODELS.items() if isinstance(record.config, MaskRCNNConfig)}
    assert named == MASK_RCNN_SETTINGS.keys()


def test_the_published_solov2_has_mmdetections_settings():
    config = MODELS["mmdet_solov2_r50_fpn"].config
    assert config.num_grids == (40, 36, 24, 16, 12)
    assert config.scale_ranges == ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert config.pos_scale == 0.2
    assert (config.score_threshold, config.post_nms_score_threshold) == (0.1, 0.05)
    assert config.min_mask_area == (8, 8, 16, 32, 32)
    assert (config.matrix_nms_kernel, config.matrix_nms_sigma) == ("gaussian", 2.0)
    assert (config.pre_nms_topk, config.detections_per_image) == (500, 100)
    assert (config.num_head_convs, config.head_channels) == (4, 512)
    assert (config.mask_feat_channels, config.mask_out_channels) == (128, 256)


def test_docs_models_is_up_to_date():
    spec = importlib.util.spec_from_file_location("model_table", ROOT / "scripts/model_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "models.md").read_text() == script.document()
