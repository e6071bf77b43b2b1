"""The steps of a cascade against MMDetection's."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.heads import cascade
from jaxseg.heads.box_head import BoxHeadConfig


def test_refined_boxes_are_those_of_mmdetection(shared):
    with np.load(shared / "goldens" / "models" / "ops_later.npz") as file:
        rois, deltas, expected = (file[f"refine__{name}"] for name in ("rois", "deltas", "out"))
    config = BoxHeadConfig(cls_agnostic_bbox_reg=True, bbox_reg_weights=(10.0, 10.0, 5.0, 5.0))
    size = jnp.asarray([[110, 150]])
    refined = cascade.refine(config, jnp.asarray(deltas[:, None]), jnp.asarray(rois[None]), size)
    np.testing.assert_allclose(refined[0], expected, atol=1e-4)


def test_every_stage_needs_all_of_its_settings():
    box = BoxHeadConfig(cls_agnostic_bbox_reg=True)
    with pytest.raises(ValueError, match="one value for each stage"):
        cascade.stage_configs(box, cascade.CascadeConfig(positive_ious=(0.5, 0.6)))
    with pytest.raises(ValueError, match="set cls_agnostic_bbox_reg"):
        cascade.stage_configs(BoxHeadConfig(), cascade.CascadeConfig())
