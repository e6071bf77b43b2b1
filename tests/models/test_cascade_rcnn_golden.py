"""Cascade Mask R-CNN against MMDetection's: the same weights and pixels give the same numbers."""

import json

import numpy as np
import pytest

from jaxseg.models import cascade_rcnn as module
from jaxseg.models.cascade_rcnn import CascadeRCNN, CascadeRCNNConfig
from tests.goldens import difference
from tests.models.cascade_goldens import (
    STAGES,
    Training,
    check_detections,
    check_stages,
    golden_fields,
)
from tests.models.mmdet_golden import Golden

pytestmark = pytest.mark.golden


def golden_config(meta) -> CascadeRCNNConfig:
    return CascadeRCNNConfig(**golden_fields(meta))


@pytest.fixture(scope="module")
def golden(shared):
    return Golden(shared, "cascade_maskrcnn", golden_config, module, CascadeRCNN)


@pytest.fixture(scope="module")
def training(golden):
    return Training(golden, golden.batch())


def test_every_stage(golden):
    differences = check_stages(golden)
    found, stages = golden.prediction
    labels = np.asarray(found.labels).reshape(-1)
    for k in STAGES:
        logits = stages[f"mask_heads_{k}"]["__call__"][0]
        expected = golden[f"eval__s{k}_mask_logits"][np.arange(len(labels)), labels]
        differences[f"mask_logits{k}"] = difference(logits, expected)
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences


def test_detections_in_the_same_order(golden):
    differences = check_detections(golden)
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences


@pytest.mark.slow  # half a minute, as HTC's
@pytest.mark.parametrize("mode", ["train", "train_empty1"])
def test_losses_and_gradients(training, mode):
    differences, elements = training.check(mode)
    print(mode, json.dumps(differences, indent=1), "largest difference of an element", elements)
    assert elements < 1e-3
