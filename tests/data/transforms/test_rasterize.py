import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from jaxseg.data.source import Example
from jaxseg.data.transforms.objects import (
    bucket_bounds,
    center_of_mass,
    view_objects,
    visible_pixels,
)
from jaxseg.data.transforms.rasterize import fill_box_crop, fill_image_mask
from jaxseg.data.transforms.sample import make_sample
from jaxseg.data.transforms.view import View, full_view
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec
from tests.data.scenes import blobs, rectangle, scene

BUCKET = (48, 64)


def random_bitmaps_and_view(rng):
    """Return the masks of an image, and a view of a part of it."""
    height, width = rng.integers(1, 60, 2).tolist()
    bitmaps = blobs(rng, height, width, 3)
    y, x = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in (height, width))
    size = int(rng.integers(1, 49)), int(rng.integers(1, 65))
    return bitmaps, View((height, width), (y[0], x[0], y[1], x[1]), bool(rng.integers(2)), size)


def resized_by_opencv(bitmap, view, stride):
    """Return a whole bitmap, cropped, mirrored, resized and padded in turn."""
    top, left, bottom, right = view.region
    cropped = bitmap[top:bottom, left:right].astype(np.uint8) * np.uint8(255)
    cropped = np.ascontiguousarray(cropped[:, :: -1 if view.flipped else 1])
    padded = np.zeros(BUCKET, np.uint8)
    resized = cv2.resize(cropped, view.size[::-1], interpolation=cv2.INTER_NEAREST)
    padded[: view.size[0], : view.size[1]] = resized
    if stride == 1:
        return padded > 0
    size = BUCKET[1] // stride, BUCKET[0] // stride
    return cv2.resize(padded, size, interpolation=cv2.INTER_LINEAR) >= 128


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_image_masks_equal_opencvs(stride, seed):
    bitmaps, view = random_bitmaps_and_view(np.random.default_rng(seed))
    for item in view_objects(scene(bitmaps), view):
        mask = np.zeros((BUCKET[0] // stride, BUCKET[1] // stride), bool)
        fill_image_mask(item, mask, stride)
        np.testing.assert_array_equal(mask, resized_by_opencv(bitmaps[item.label], view, stride))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_all_pixels_are_inside_the_bucket_bounds_and_the_box(seed):
    bitmaps, view = random_bitmaps_and_view(np.random.default_rng(seed))
    for item in view_objects(scene(bitmaps), view):
        rows, columns = np.arange(view.size[0]), np.arange(view.size[1])
        ys, xs = np.nonzero(visible_pixels(item, rows, columns))
        top, left, bottom, right = bucket_bounds(item)
        assert ((ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)).all()
        # They are not much larger than the box, for speed.
        assert (np.asarray([left, top]) > item.box[:2] - 2.001).all()
        assert (np.asarray([right, bottom]) < item.box[2:] + 2.001).all()
        # Nearest sampling takes the mask at each pixel's top-left corner, as the references do.
        x1, y1, x2, y2 = item.box + np.asarray([-1, -1, 1, 1], np.float32) * 1e-4
        assert ((ys >= y1) & (ys < y2) & (xs >= x1) & (xs < x2)).all()


def test_box_crops_pasted_back_are_the_image_masks():
    """Ellipses in views that crop, flip and stretch have an IoU above 0.95."""
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[:120, :160]
    for _ in range(20):
        y, x = rng.uniform(30, 90), rng.uniform(40, 120)
        disc = (yy - y) ** 2 / 900 + (xx - x) ** 2 / 1600 < 1
        region = (20, 30, int(rng.integers(80, 120)), int(rng.integers(100, 160)))
        view = View((120, 160), region, bool(rng.integers(2)), (200, 300))
        (item,) = view_objects(scene([disc]), view)
        crop = np.zeros((112, 112), bool)
        fill_box_crop(item, crop)
        pixels = visible_pixels(item, np.arange(200), np.arange(300)).astype(bool)
        x1, y1, x2, y2 = item.box
        rows = np.floor((np.arange(200) + 0.5 - y1) / (y2 - y1) * 112).astype(int)
        columns = np.floor((np.arange(300) + 0.5 - x1) / (x2 - x1) * 112).astype(int)
        pasted = np.zeros((200, 300), bool)
        inside = np.ix_((rows >= 0) & (rows < 112), (columns >= 0) & (columns < 112))
        pasted[inside] = crop[rows[(rows >= 0) & (rows < 112)]][
            :, columns[(columns >= 0) & (columns < 112)]
        ]
        assert (pasted & pixels).sum() / (pasted | pixels).sum() > 0.95


def test_centres_follow_the_view():
    bitmaps = [rectangle(20, 30, 4, 6, 10, 16), rectangle(20, 30, 20, 0, 21, 1)]
    view = View((20, 30), (5, 2, 15, 8), True, (20, 12))
    (item,) = view_objects(scene(bitmaps), view)
    # Of columns 2 to 8 the object has 4 to 8, mirrored 0 to 4; of rows 5 to 15 those from 6 on.
    np.testing.assert_allclose(center_of_mass(item), [2 * 2 - 0.5, 5.5 * 2 - 0.5])


def example_with_1000_objects(side):
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
    "targets", [TargetSpec(BoxCrops(28)), TargetSpec(ImageMasks(4), centers=True)]
)
def test_masks_are_decoded_in_part(targets):
    """1,000 objects in a large image take 5 MB; each whole bitmap would take 16 MB."""
    example = example_with_1000_objects(4000)
    tracemalloc.start()
    sample = make_sample(
        example,
        bucket=(256, 256),
        min_max_size=None,
        max_objects=1000,
        targets=targets,
        flipped=False,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.valid.all()
    assert peak < sample.masks.nbytes + 5_000_000 + 256 * 256 * 3


def test_images_wider_than_opencv_can_warp():
    bitmap = rectangle(3, 40_000, 0, 0, 20_000, 3)
    example = scene([bitmap], boxes=[(0, 0, 40_000, 3)])
    (item,) = view_objects(example, full_view((3, 40_000), (32, 1024), None))
    crop = np.zeros((14, 14), bool)
    fill_box_crop(item, crop)
    np.testing.assert_array_equal(crop, np.arange(14)[None, :].repeat(14, 0) < 7)
