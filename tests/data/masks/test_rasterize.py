import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from jaxseg.data.masks.rasterize import crop_to_box, whole_image
from jaxseg.data.source import Example
from jaxseg.data.transforms.objects import center_of_mass, extent_in_bucket, pixels_in_bucket, place
from jaxseg.data.transforms.sample import make_sample
from jaxseg.data.transforms.view import View, plain_view
from jaxseg.types import MaskFrame, MaskSpec
from tests.data.scenes import blobs, rectangle, scene

CANVAS = (48, 64)


def drawn(rng, flipped=None):
    """An image with a few objects, and a view of a part of it."""
    height, width = rng.integers(1, 60, 2).tolist()
    bitmaps = blobs(rng, height, width, 3)
    y, x = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in (height, width))
    size = int(rng.integers(1, 49)), int(rng.integers(1, 65))
    return bitmaps, View((height, width), (y[0], x[0], y[1], x[1]), bool(rng.integers(2)), size)


def resized_by_opencv(bitmap, view, stride):
    """Cut, mirrored, resized and padded one after the other, with whole bitmaps."""
    top, left, bottom, right = view.region
    part = bitmap[top:bottom, left:right].astype(np.uint8) * np.uint8(255)
    part = np.ascontiguousarray(part[:, :: -1 if view.flipped else 1])
    padded = np.zeros(CANVAS, np.uint8)
    resized = cv2.resize(part, view.size[::-1], interpolation=cv2.INTER_NEAREST)
    padded[: view.size[0], : view.size[1]] = resized
    if stride == 1:
        return padded > 0
    size = CANVAS[1] // stride, CANVAS[0] // stride
    return cv2.resize(padded, size, interpolation=cv2.INTER_LINEAR) >= 128


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_masks_of_the_image_are_opencvs(stride, seed):
    bitmaps, view = drawn(np.random.default_rng(seed))
    for item in place(scene(bitmaps), view):
        mask = np.zeros((CANVAS[0] // stride, CANVAS[1] // stride), bool)
        whole_image(item, mask, stride)
        np.testing.assert_array_equal(mask, resized_by_opencv(bitmaps[item.label], view, stride))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_no_pixel_lies_outside_of_the_extent_and_none_begins_beyond_the_box(seed):
    bitmaps, view = drawn(np.random.default_rng(seed))
    for item in place(scene(bitmaps), view):
        rows, columns = np.arange(view.size[0]), np.arange(view.size[1])
        ys, xs = np.nonzero(pixels_in_bucket(item, rows, columns))
        top, left, bottom, right = extent_in_bucket(item)
        assert ((ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)).all()
        # The nearest pixel of the mask, as the references take it, is that of the corner.
        x1, y1, x2, y2 = item.box + np.asarray([-1, -1, 1, 1], np.float32) * 1e-4
        assert ((ys >= y1) & (ys < y2) & (xs >= x1) & (xs < x2)).all()


def test_crops_laid_back_over_their_boxes_are_the_masks_of_the_image():
    """Discs and the like, seen through views that cut, flip and stretch: IoU over 0.95."""
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[:120, :160]
    for _ in range(20):
        y, x = rng.uniform(30, 90), rng.uniform(40, 120)
        disc = (yy - y) ** 2 / 900 + (xx - x) ** 2 / 1600 < 1
        region = (20, 30, int(rng.integers(80, 120)), int(rng.integers(100, 160)))
        view = View((120, 160), region, bool(rng.integers(2)), (200, 300))
        (item,) = place(scene([disc]), view)
        crop = np.zeros((112, 112), bool)
        crop_to_box(item, crop)
        pixels = pixels_in_bucket(item, np.arange(200), np.arange(300)).astype(bool)
        x1, y1, x2, y2 = item.box
        rows = np.floor((np.arange(200) + 0.5 - y1) / (y2 - y1) * 112).astype(int)
        columns = np.floor((np.arange(300) + 0.5 - x1) / (x2 - x1) * 112).astype(int)
        back = np.zeros((200, 300), bool)
        inside = np.ix_((rows >= 0) & (rows < 112), (columns >= 0) & (columns < 112))
        back[inside] = crop[rows[(rows >= 0) & (rows < 112)]][
            :, columns[(columns >= 0) & (columns < 112)]
        ]
        assert (back & pixels).sum() / (back | pixels).sum() > 0.95


def test_centres_follow_the_view():
    bitmaps = [rectangle(20, 30, 4, 6, 10, 16), rectangle(20, 30, 20, 0, 21, 1)]
    view = View((20, 30), (5, 2, 15, 8), True, (20, 12))
    (item,) = place(scene(bitmaps), view)
    # Of columns 2 to 8 the object has 4 to 8, mirrored 0 to 4; of rows 5 to 15 those from 6 on.
    np.testing.assert_allclose(center_of_mass(item), [2 * 2 - 0.5, 5.5 * 2 - 0.5])


def thousand(side):
    rng = np.random.default_rng(0)
    rles, boxes = [], []
    for x, y in rng.integers(0, side - 12, (1000, 2)).tolist():
        runs = [x * side + y] + [10, side - 10] * 9 + [10]
        runs.append(side * side - sum(runs))
        rles.append(mask_api.frPyObjects({"size": [side, side], "counts": runs}, side, side))
        boxes.append((x, y, x + 10, y + 10))
    image = np.zeros((side, side, 3), np.uint8)
    boxes, labels = np.asarray(boxes, np.float32), np.zeros(1000, np.int32)
    return Example(image, 1, boxes, labels, rles, np.zeros(1000, bool))


@pytest.mark.parametrize(
    "needs", [MaskSpec(MaskFrame.GRID_SAMPLE, 28), MaskSpec(MaskFrame.IMAGE, 4, True)]
)
def test_a_thousand_objects_in_a_large_image_take_no_memory(needs):
    """Each whole bitmap would be 16 MB."""
    example = thousand(4000)
    tracemalloc.start()
    sample = make_sample(
        example, bucket=(256, 256), min_max_size=None, max_objects=1000, needs=needs, flipped=False
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.valid.all()
    assert peak < sample.masks.nbytes + 5_000_000 + 256 * 256 * 3


def test_sides_beyond_what_opencv_can_warp():
    bitmap = rectangle(3, 40_000, 0, 0, 20_000, 3)
    example = scene([bitmap], boxes=[(0, 0, 40_000, 3)])
    (item,) = place(example, plain_view((3, 40_000), (32, 1024), None))
    crop = np.zeros((14, 14), bool)
    crop_to_box(item, crop)
    np.testing.assert_array_equal(crop, np.arange(14)[None, :].repeat(14, 0) < 7)
