import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data.masks.polygon_targets import polygon_targets
from tests.goldens import load_golden


@pytest.mark.parametrize(
    ("reference", "rois"), [("d2_poly28", "boxes"), ("mm_poly28", "boxes_clipped")]
)
def test_targets_match_detectron2_and_mmdetection(shared, reference, rois):
    _, golden = load_golden(shared, "mask_targets")
    ends = np.cumsum(golden["poly_len"])[:-1]
    polygons = [[] for _ in golden["gt_masks"]]
    for polygon, owner in zip(np.split(golden["poly_xy"], ends), golden["poly_inst"], strict=True):
        polygons[owner].append(polygon)
    targets = polygon_targets(polygons, golden[rois], golden["matched"], size=28)
    np.testing.assert_array_equal(targets, golden[reference].astype(bool))


@settings(max_examples=50, deadline=None)
@given(
    corner=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    side=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    scale=st.integers(1, 4),
)
def test_a_box_shaped_polygon_fills_the_cells_inside_it(corner, side, scale):
    (x, y), (w, h) = corner, side
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    roi = np.asarray([[0, 0, 40, 40]], np.float32)
    target = polygon_targets([[polygon]], roi, np.zeros(1, int), size=40 * scale)[0]
    expected = np.zeros_like(target)
    expected[y * scale : (y + h) * scale, x * scale : (x + w) * scale] = True
    np.testing.assert_array_equal(target, expected)


def test_an_roi_without_area_gives_a_finite_target():
    square = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]
    targets = polygon_targets(
        [[square]], np.asarray([[1.0, 1.0, 1.0, 1.0]]), np.zeros(1, int), size=4
    )
    assert targets.all()
