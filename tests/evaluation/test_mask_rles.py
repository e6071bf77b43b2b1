"""Predicted masks to run lengths on the original image, against loops, OpenCV and pycocotools."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from jaxseg.evaluation.mask_rles import box_mask_rles, image_mask_rles
from tests import strategies
from tests.goldens import load_golden
from tests.oracles.masks import paste as slow_paste
from tests.oracles.masks import paste_integer as slow_paste_integer
from tests.oracles.masks import resize as slow_resize


def paste_one(mask, box, size, paste):
    (rle,) = box_mask_rles(mask[None], np.asarray([box], np.float32), size, paste=paste)
    return mask_api.decode(rle).astype(bool)


def check_paste(mask, box, size, paste, oracle):
    pasted = paste_one(mask, box, size, paste)
    expected = oracle(mask, np.asarray(box, float), size)
    decided = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal(pasted[decided], (expected >= 0.5)[decided])


@pytest.mark.parametrize(
    "box", [(3.2, 4.1, 17.9, 15.3), (-6, -3.5, 9, 30), (0, 0, 24, 20), (10, 10, 11, 11)]
)
def test_grid_sample_paste_agrees_with_the_loop(box):
    mask = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    check_paste(mask, box, (20, 24), "grid_sample", slow_paste)


@settings(max_examples=60, deadline=None)
@given(
    mask=strategies.quarters((4, 4), 0, 1),
    boxes=strategies.boxes(1, largest=12, low=-6, high=14),
)
def test_pasted_rles_agree_with_the_loops(mask, boxes):
    """Boxes reach beyond the image or have no area; quarters of a pixel round nowhere."""
    for paste, oracle in (("grid_sample", slow_paste), ("integer", slow_paste_integer)):
        check_paste(mask, boxes[0], (9, 11), paste, oracle)


def test_grid_sample_paste_of_boxes_without_area_or_outside_is_empty():
    for box in ((5, 5, 5, 9), (30, 30, 40, 40), (-9, -9, -2, -2)):
        assert not paste_one(np.ones((4, 4), np.float32), box, (20, 24), "grid_sample").any()


def test_integer_paste_is_that_of_torchvision(shared):
    meta, golden = load_golden(shared, "paste_masks")
    boxes, size = golden["boxes"], tuple(meta["image"])
    for masks, out in (("masks", "out"), ("masks14", "out14")):
        for mask, box, expected in zip(golden[masks], boxes, golden[out], strict=True):
            pasted = paste_one(mask[0], box, size, "integer")
            differs = pasted != (expected[0] >= 0.5)
            assert np.abs(expected[0][differs] - 0.5).max(initial=0) < 1e-4


def test_integer_paste_of_boxes_outside_the_image_is_empty():
    for box in ([-50, -50, -20, -20], [90, 90, 120, 120]):
        assert not paste_one(np.ones((8, 8), np.float32), box, (40, 40), "integer").any()


def is_as_pycocotools_writes_it(rle):
    return rle == mask_api.encode(mask_api.decode(rle))


def resized_by_cv2(mask, bucket, image_size, original_size):
    padded = cv2.resize(mask, bucket[::-1], interpolation=cv2.INTER_LINEAR)
    image = padded[: image_size[0], : image_size[1]]
    return cv2.resize(image, original_size[::-1], interpolation=cv2.INTER_LINEAR)


@settings(max_examples=60, deadline=None)
@given(
    mask=strategies.floats((3, 4), 0, 1),
    stride=st.integers(1, 4),
    cut=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    original_size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
)
def test_masks_of_the_image_agree_with_the_loops(mask, stride, cut, original_size):
    """Images are larger and smaller than the original; NaN and ties are left out."""
    bucket = (3 * stride, 4 * stride)
    image_size = (bucket[0] - cut[0], bucket[1] - cut[1])
    padded = slow_resize(mask, bucket)
    expected = slow_resize(padded[: image_size[0], : image_size[1]], original_size)
    (rle,) = image_mask_rles([mask], bucket, image_size, original_size)
    found = mask_api.decode(rle)
    decided = np.abs(expected - 0.5) > 1e-6
    np.testing.assert_array_equal(found[decided], (expected >= 0.5)[decided])
    assert is_as_pycocotools_writes_it(rle)


@pytest.mark.parametrize(
    ("image_size", "original_size"),
    [
        ((200, 272), (200, 272)),
        ((187, 250), (480, 640)),
        ((200, 150), (100, 75)),
        ((9, 272), (9, 7)),
    ],
)
@pytest.mark.parametrize("kind", ["noise", "waves", "binary"])
def test_masks_of_the_image_agree_with_opencv(kind, image_size, original_size):
    """More pixels than one band has, and masks from a few cells to all."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:50, :68]
    for radius in (2, 8, 90):
        distance = np.hypot(y - 20, x - 30) / radius
        mask = {
            "noise": rng.random((50, 68)) * (distance < 1),
            "waves": 1 / (1 + np.exp(4 * distance - 4 + np.sin(x + y * distance))),
            "binary": distance < 1,
        }[kind].astype(np.float32)
        (rle,) = image_mask_rles([mask], (200, 272), image_size, original_size)
        expected = resized_by_cv2(mask, (200, 272), image_size, original_size)
        decided = np.abs(expected - 0.5) > 1e-6
        assert decided.mean() > 0.99
        np.testing.assert_array_equal(mask_api.decode(rle)[decided], (expected >= 0.5)[decided])
        assert is_as_pycocotools_writes_it(rle)


def test_masks_of_all_pixels_or_none():
    for size in ((5, 7), (1, 1), (300, 400)):
        full, empty = image_mask_rles(
            [np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)], (8, 12), (8, 12), size
        )
        assert full == mask_api.encode(np.ones(size, np.uint8, order="F"))
        assert empty == mask_api.encode(np.zeros(size, np.uint8, order="F"))
    assert image_mask_rles([], (8, 12), (8, 12), (5, 7)) == []


@pytest.mark.parametrize("size", [(1, 7), (3, 5), (40, 30), (300, 400)])
def test_box_masks_have_pycocotools_rles(size):
    """Masks that touch the first and the last pixel, and cover whole columns, among them."""
    rng = np.random.default_rng(0)
    height, width = size
    boxes = np.concatenate([rng.uniform(-1, 1, (30, 2)), rng.uniform(0.2, 2, (30, 2))], axis=1)
    boxes = (boxes * [width, height, width, height]).astype(np.float32)
    masks = np.concatenate([np.ones((15, 6, 6)), rng.random((15, 6, 6))]).astype(np.float32)
    masks[20:] = masks[20:] > 0.5
    for paste in ("grid_sample", "integer"):
        rles = box_mask_rles(masks, boxes, size, paste=paste)
        assert all(map(is_as_pycocotools_writes_it, rles))
        assert box_mask_rles(masks[:0], boxes[:0], size, paste=paste) == []
