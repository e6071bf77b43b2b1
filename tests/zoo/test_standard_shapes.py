"""The published configurations have the arrays that their codebase lists for them."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from jaxseg.nn.freezing import merge_frozen
from jaxseg.zoo import MODELS
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.load import TABLES

STANDARD = {
    "mmdet_cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn",
    "mmdet_htc_r50_fpn": "htc",
    "mmdet_htc_without_semantic_r50_fpn": "htc_nosem",
    "mmdet_mask_rcnn_r50_fpn": "mask_rcnn",
    "mmdet_panoptic_fpn_r50_fpn": "panoptic_fpn",
    "mmdet_point_rend_r50_caffe_fpn": "pointrend",
    "mmdet_solov2_r50_fpn": "solov2",
}
"""Names of MMDetection's models here, and in the list of shapes."""


@pytest.mark.parametrize("name", STANDARD)
def test_names_shapes_and_counts_are_the_codebases(name, shared):
    path = shared / "goldens" / "models" / "standard_param_shapes.json"
    listed = json.loads(path.read_text())
    expected = {
        key: tuple(shape)
        for key, shape in listed[STANDARD[name]].items()
        if not key.endswith("num_batches_tracked")
    }
    record = MODELS[name]
    init = record.config.build().init
    variables = merge_frozen(jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3))))
    empty = jax.tree.map(lambda x: np.empty(x.shape, np.uint8), variables)
    table = TABLES[type(record.config)][record.codebase]
    exported = export_state(empty, list(table.entries(record.config)))
    assert {key: array.shape for key, array in exported.items()} == expected
    state = traverse_util.flatten_dict(variables["batch_stats"])
    # The scales and shifts of frozen batch norms are no parameters here.
    frozen = sum(x.size for path, x in state.items() if path[-1] in ("scale", "bias"))
    assert record.parameters + frozen == listed[f"{STANDARD[name]}__n_params"]
