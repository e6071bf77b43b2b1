import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests.goldens import load_golden
from tests.oracles import anchors as oracle


@pytest.mark.parametrize("rounded", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 600), min_size=1, max_size=3),
    ratios=st.lists(st.sampled_from([0.25, 1 / 3, 0.5, 1, 2, 3, 4]), min_size=1, max_size=3),
)
def test_cells_agree_with_the_definition(rounded, sizes, ratios):
    cell = ops.cell_anchors(sizes, ratios, rounded=rounded)
    np.testing.assert_allclose(cell, oracle.cell(sizes, ratios, rounded), rtol=1e-6)
    np.testing.assert_array_equal(cell[:, :2], -cell[:, 2:])
    if not rounded:
        width, height = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
        np.testing.assert_allclose(height / width, np.repeat(ratios, len(sizes)), rtol=1e-5)
        np.testing.assert_allclose(width * height, np.tile(sizes, len(ratios)) ** 2.0, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(strides=st.tuples(st.integers(1, 128), st.integers(1, 128)))
def test_grids_agree_with_the_definition(strides):
    cell = ops.cell_anchors((5, 8), (0.5, 1), rounded=False)
    expected = oracle.grid(cell, 3, 4, *strides)
    for stride in (strides, jnp.asarray(strides)):
        np.testing.assert_allclose(ops.grid_anchors(cell, (3, 4), stride), expected, rtol=1e-6)
    square = ops.grid_anchors(cell, (3, 4), strides[0])
    np.testing.assert_allclose(square, oracle.grid(cell, 3, 4, strides[0], strides[0]), rtol=1e-6)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_torchvision_golden(shared, case):
    meta, golden = load_golden(shared, "anchors")
    options = next(c for c in meta["cases"] if c["key"] == case)
    names = ("sizes", "aspect_ratios", "feature_sizes", "strides")
    boxes = []
    levels = zip(*(options[name] for name in names), strict=True)
    for level, (sizes, ratios, grid, strides) in enumerate(levels):
        cell = ops.cell_anchors(sizes, ratios, rounded=True)
        np.testing.assert_array_equal(cell, golden[f"{case}__cell{level}"])
        boxes.append(ops.grid_anchors(cell, tuple(grid), tuple(strides)))
    np.testing.assert_array_equal(np.concatenate(boxes), golden[f"{case}__anchors"])


@pytest.mark.parametrize("case", ["anchor0", "anchor1", "anchor2"])
def test_mmdetection_golden(shared, case):
    """One size, RetinaNet's three sizes in an octave, and YOLACT's with other centres."""
    meta, golden = load_golden(shared, "mm_ops")
    options = meta[case]
    octave = options.get("scales_per_octave", 1)
    scales = options.get(
        "scales", [options.get("octave_base_scale", 0) * 2 ** (i / octave) for i in range(octave)]
    )
    for level, (stride, grid) in enumerate(
        zip(options["strides"], options["feature_sizes"], strict=True)
    ):
        base = options["base_sizes"][level] if "base_sizes" in options else stride
        cell = ops.cell_anchors([s * base for s in scales], options["ratios"], rounded=False)
        if "centers" in options:
            cell = cell + np.asarray(options["centers"][level] * 2, np.float32)[None]
        boxes = ops.grid_anchors(cell, tuple(grid), stride)
        np.testing.assert_allclose(boxes, golden[f"{case}__l{level}"], rtol=1e-6, atol=1e-4)
