"""Mask targets against the loops, on drawn masks, frames and RoIs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import ops
from tests import strategies
from tests.oracles.masks import crop_target
from tests.oracles.roi_align import roi_align as slow_roi_align

mask_targets = jax.jit(ops.mask_targets, static_argnames="size")
bitmap_targets = jax.jit(ops.bitmap_targets, static_argnames=("size", "aligned"))


@settings(max_examples=30, deadline=None)
@given(
    masks=strategies.flags((2, 4, 5)),
    frames=strategies.boxes(2, smallest=0, largest=16, low=-4, high=8),
    rois=strategies.boxes(4, smallest=0, largest=16, low=-4, high=8),
    gt_index=strategies.integers(4, 0, 1),
)
def test_targets_from_crops_agree_with_the_loop(masks, frames, rois, gt_index):
    # Off the frame's rim, where the value jumps.
    rois = rois + np.float32(2**-8)
    targets = mask_targets(masks, frames, rois, gt_index, size=4)
    for target, roi, i in zip(targets, rois, gt_index, strict=True):
        np.testing.assert_allclose(target, crop_target(masks[i], frames[i], roi, 4), atol=1e-4)
    assert ((np.asarray(targets) >= 0) & (np.asarray(targets) <= 1 + 1e-6)).all()


@pytest.mark.parametrize("aligned", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    masks=strategies.flags((2, 8, 9)),
    rois=strategies.boxes(3, smallest=0, largest=12, low=-4, high=8),
    gt_index=strategies.integers(3, 0, 1),
)
def test_targets_from_bitmaps_agree_with_the_loop(aligned, masks, rois, gt_index):
    rois = rois + np.float32(2**-8)
    size = jnp.asarray(masks.shape[1:])
    targets = bitmap_targets(masks, rois, gt_index, size, size=4, aligned=aligned)
    padded = bitmap_targets(
        np.pad(masks, ((0, 0), (0, 3), (0, 2))), rois, gt_index, size, size=4, aligned=aligned
    )
    np.testing.assert_allclose(padded, targets, atol=1e-5)
    for target, roi, i in zip(targets, rois, gt_index, strict=True):
        expected = slow_roi_align(masks[i][..., None], roi[None], (4, 4), 1.0, 0, aligned)
        np.testing.assert_allclose(target, expected[0, ..., 0], atol=1e-4)
