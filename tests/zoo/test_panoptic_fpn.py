"""Panoptic FPN's names in Detectron2; those in MMDetection are tested with its golden."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxseg import zoo
from jaxseg.data.coco.categories import coco_categories
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.weights_file import zoo_experiment
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.panoptic_fpn import detectron2_table
from tests.tiny import STUFF, tiny_panoptic_fpn_config


@pytest.fixture(scope="module")
def small():
    """A small model's config, its random variables, and their names in Detectron2."""
    config = dataclasses.replace(
        tiny_panoptic_fpn_config(), backbone=ResNetConfig(depth=18, width=8), head_norm=None
    )
    shapes = jax.eval_shape(lambda: config.build().init(jax.random.key(0), (1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.random(x.shape, np.float32), shapes)
    return config, variables, export_state(merge_frozen(variables), list(detectron2_table(config)))


def test_layers_have_detectron2s_names(small):
    convs = {"p2.0", "p3.0", "p4.0", "p4.2", "p5.0", "p5.2", "p5.4"}
    expected = {f"{name}.weight" for name in convs}
    expected |= {f"{name}.norm.{kind}" for name in convs for kind in ("weight", "bias")}
    expected |= {"predictor.weight", "predictor.bias"}
    semantic = {name for name in small[2] if name.startswith("sem_seg_head.")}
    assert semantic == {f"sem_seg_head.{name}" for name in expected}


def test_the_things_are_detectron2s_first_class_and_the_last_here(small):
    _, variables, state = small
    logit = variables["params"]["semantic_head"]["logit"]
    weight, bias = state["sem_seg_head.predictor.weight"], state["sem_seg_head.predictor.bias"]
    assert weight.shape == (STUFF + 1, 16, 1, 1)
    np.testing.assert_array_equal(weight[0, :, 0, 0], logit["kernel"][0, 0, :, -1])
    np.testing.assert_array_equal(weight[1, :, 0, 0], logit["kernel"][0, 0, :, 0])
    np.testing.assert_array_equal(bias, np.roll(logit["bias"], 1))


def test_a_detectron2_checkpoint_is_read_as_it_was_written(small):
    config, variables, state = small
    loaded = zoo.load_detectron2(state, config)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_published_models_are_those_of_cocos_panoptic_categories():
    record = zoo.MODELS["detectron2_panoptic_fpn_r50"]
    names = [category.name for category in coco_categories(record.config)]
    assert (len(names), names[0], names[79:81]) == (133, "person", ["toothbrush", "banner"])
    assert zoo_experiment(record).data.source.panoptic
    names = [category.name for category in coco_categories(tiny_panoptic_fpn_config())]
    assert names == ["class 1", "class 2", "class 3", "class 4", "class 5"]
