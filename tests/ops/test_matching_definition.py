"""Matching against the loop, on drawn overlaps with many ties."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import ops
from tests import strategies
from tests.oracles.matching import match as slow_match

match = jax.jit(ops.match, static_argnames=("high", "low", "low_quality", "claims"))


@pytest.mark.parametrize(
    ("high", "low", "low_quality", "claims"),
    [
        (0.75, 0.25, None, False),
        (0.75, 0.25, 0.0, False),
        (0.75, 0.25, 0.375, False),
        (0.75, 0.25, 0.375, True),
        (0.5, 0.5, 0.0, True),
    ],
)
@settings(max_examples=40, deadline=None)
@given(
    eighths=strategies.integers((9, 4), 0, 8),
    gt_valid=strategies.flags(4),
    anchor_valid=strategies.flags(9),
)
def test_matching_agrees_with_the_loop(
    high, low, low_quality, claims, eighths, gt_valid, anchor_valid
):
    iou = (eighths / 8).astype(np.float32)
    options = {"high": high, "low": low, "low_quality": low_quality, "claims": claims}
    matches = match(iou, gt_valid, anchor_valid=anchor_valid, **options)
    gt, positive, negative = slow_match(iou, gt_valid, anchor_valid, **options)
    np.testing.assert_array_equal(matches.positive, positive)
    np.testing.assert_array_equal(matches.negative, negative)
    np.testing.assert_array_equal(np.asarray(matches.gt)[positive], gt[positive])
