"""HTC, with and without its semantic branch, against MMDetection's: the same weights and pixels
give the same numbers."""

import json

import numpy as np
import pytest

from jaxseg.models import htc as module
from jaxseg.models.htc import HTC, FusedSemanticHeadConfig, HTCConfig
from tests.goldens import difference, nchw
from tests.models.cascade_goldens import (
    Training,
    check_detections,
    check_stages,
    golden_fields,
)
from tests.models.mmdet_golden import Golden

pytestmark = pytest.mark.golden


def golden_config(meta) -> HTCConfig:
    head = meta["config"]["roi_head"].get("semantic_head")
    if head is None:
        return HTCConfig(**golden_fields(meta), semantic=None)
    semantic = FusedSemanticHeadConfig(
        head["num_convs"],
        head.get("loss_weight", head.get("loss_seg", {}).get("loss_weight")),
    )
    return HTCConfig(
        **golden_fields(meta), semantic=semantic, num_semantic_classes=head["num_classes"]
    )


@pytest.fixture(scope="module", params=["htc", pytest.param("htc_nosem", marks=pytest.mark.slow)])
def golden(request, shared):
    return Golden(shared, request.param, golden_config, module, HTC)


@pytest.fixture(scope="module")
def training(golden):
    stride = module.SEMANTIC_STRIDE if golden.config.semantic else None
    return Training(golden, golden.batch(semantic_stride=stride))


def test_every_stage(golden):
    differences = check_stages(golden)
    found, stages = golden.prediction
    labels = np.asarray(found.labels).reshape(-1)
    logits = stages["mask_flow"]["__call__"][0]
    expected = golden["eval__final_mask_logits"][np.arange(len(labels)), labels]
    differences["mask_logits"] = difference(logits, expected)
    if golden.config.semantic:
        logits, feature = stages["semantic_head"]["__call__"][0]
        differences["semantic_logits"] = difference(nchw(logits), golden["eval__sem_logits"])
        differences["semantic_feature"] = difference(nchw(feature), golden["eval__sem_feat"])
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences


def test_detections_in_the_same_order(golden):
    differences = check_detections(golden)
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "train_empty1"])
def test_losses_and_gradients(golden, training, mode):
    semantic = {"semantic": "loss_semantic_seg"} if golden.config.semantic else {}
    differences, elements = training.check(mode, semantic)
    print(mode, json.dumps(differences, indent=1), "largest difference of an element", elements)
    assert elements < 1e-3
