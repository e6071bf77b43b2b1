"""Cascade R-CNN's names in Detectron2; those in MMDetection are tested with its goldens."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxseg import zoo
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo.cascade_rcnn import DETECTRON2_R50_FPN, MMDET_R50_FPN, detectron2_table, mmdet_table
from jaxseg.zoo.engine import export_state
from tests.tiny import tiny_cascade_config

NAMES = """
    backbone.fpn_lateral2.weight backbone.bottom_up.stem.conv1.weight
    proposal_generator.rpn_head.objectness_logits.bias roi_heads.box_head.0.fc1.weight
    roi_heads.box_head.2.fc2.bias roi_heads.box_predictor.0.cls_score.weight
    roi_heads.box_predictor.2.bbox_pred.bias roi_heads.mask_head.mask_fcn1.weight
    roi_heads.mask_head.deconv.weight roi_heads.mask_head.predictor.bias
"""


def test_detectron2_numbers_the_box_heads_and_has_one_mask_head():
    names = {entry.name for entry in detectron2_table(DETECTRON2_R50_FPN)}
    assert set(NAMES.split()) <= names
    assert sum(name.endswith("bbox_pred.weight") for name in names) == 3
    assert sum(name.endswith("deconv.weight") for name in names) == 1


def test_a_checkpoint_of_detectron2_loads_and_is_exported_unchanged(tmp_path):
    config = dataclasses.replace(
        tiny_cascade_config(variant="detectron2"),
        backbone=ResNetConfig(depth=18, width=8),
        head_norm=None,
    )
    init = jax.jit(config.build().init, static_argnums=1)
    variables = init(jax.random.key(0), (1, 64, 64, 3))
    state = export_state(merge_frozen(variables), list(detectron2_table(config)))
    zoo.write_safetensors(tmp_path / "published.safetensors", state)
    loaded = zoo.load_checkpoint_file(tmp_path / "published.safetensors", config)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_a_codebase_has_no_names_for_the_variant_of_the_other():
    with pytest.raises(ValueError, match='variant="mmdet"'):
        list(mmdet_table(DETECTRON2_R50_FPN))
    with pytest.raises(ValueError, match='variant="detectron2"'):
        list(detectron2_table(MMDET_R50_FPN))
