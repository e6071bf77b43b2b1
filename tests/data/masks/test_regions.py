import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_api

from jaxseg.data.masks.regions import bitmap_bounds, decode_part, encode_parts, mask_bounds
from jaxseg.data.masks.rle import run_ends
from tests.data.scenes import tight_box

BITMAPS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def encode(bitmap):
    return mask_api.encode(np.asfortranarray(bitmap, np.uint8))


@settings(deadline=None)
@given(BITMAPS, st.data())
def test_a_part_equals_the_slice_of_the_mask(bitmap, data):
    height, width = bitmap.shape
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, height)] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, width)] * 2)))
    part = decode_part(encode(bitmap), top, left, bottom, right)
    np.testing.assert_array_equal(part, bitmap[top:bottom, left:right])


@settings(deadline=None)
@given(st.lists(BITMAPS, max_size=3), st.data())
def test_the_encoded_part_is_that_of_the_whole_mask(bitmaps, data):
    """Parts touch the first and the last pixel, cover all rows, or have no pixels."""
    size, parts, expected = (12, 13), [], []
    for bitmap in bitmaps:
        top, left = (data.draw(st.integers(0, size[i] - bitmap.shape[i])) for i in (0, 1))
        whole = np.zeros(size, bool)
        whole[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
        parts.append((bitmap.T, top, left))
        expected.append(encode(whole))
    assert encode_parts(parts, size) == expected


def test_a_part_without_pixels_is_an_empty_mask():
    parts = [(np.zeros(shape, bool), 0, 0) for shape in ((0, 0), (0, 3), (3, 0))]
    assert encode_parts(parts, (4, 5)) == [encode(np.zeros((4, 5)))] * 3


@settings(deadline=None)
@given(BITMAPS)
def test_bounds_are_tight(bitmap):
    expected = tight_box(bitmap)
    assert mask_bounds([encode(bitmap)]).tolist() == [list(expected or (0, 0, 0, 0))]
    found = bitmap_bounds(bitmap)
    assert found == (expected and (expected[1], expected[0], expected[3], expected[2]))


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_all_lengths_are_decoded(seed):
    """Decode lengths from 0 to millions, in any order: numbers of one to five characters."""
    rng = np.random.default_rng(seed)
    runs = np.floor(10 ** rng.uniform(0, 6, 40)).astype(int) - 1
    rle = mask_api.frPyObjects({"size": [1, int(runs.sum())], "counts": runs.tolist()}, 1, 1)
    np.testing.assert_array_equal(np.diff(run_ends(rle["counts"]), prepend=0), runs)


def test_a_small_object_in_an_image_of_20000x20000_is_decoded_alone():
    side = 20_000
    before = 12_345 * side + 6_000
    counts = [before, 3, side - 3, 3, side * side - before - side - 3]
    rle = mask_api.frPyObjects({"size": [side, side], "counts": counts}, side, side)
    assert mask_bounds([rle]).tolist() == [[12_345, 6_000, 12_347, 6_003]]
    part = decode_part(rle, 5_999, 12_344, 6_004, 12_348)
    np.testing.assert_array_equal(part, np.pad(np.ones((3, 2)), 1))


def test_no_masks_have_no_bounds():
    assert mask_bounds([]).shape == (0, 4)
