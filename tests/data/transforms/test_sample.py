"""Images with objects as samples: resized, flipped and padded, with mask targets."""

import math

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data import Example
from jaxseg.data.transforms.objects import view_objects
from jaxseg.data.transforms.rasterize import fill_box_crop
from jaxseg.data.transforms.sample import make_sample
from jaxseg.data.transforms.view import full_view
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec
from tests.data.scenes import rectangle, scene

TARGETS = TargetSpec(BoxCrops(14))


def example(height=20, width=30, boxes=((3.0, 4.0, 13.0, 10.0),), crowd=None):
    rng = np.random.default_rng(0)
    bitmaps = []
    for x1, y1, x2, y2 in boxes:
        bitmap = np.zeros((height, width), np.uint8, order="F")
        bitmap[int(y1) : int(y2), int(x1) : int((x1 + x2) / 2)] = 1  # the left half of the box
        bitmaps.append(mask_api.encode(bitmap))
    return Example(
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        image_id=1,
        boxes=np.asarray(boxes, np.float32),
        labels=np.arange(len(boxes), dtype=np.int32),
        rles=bitmaps,
        iscrowd=np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd),
    )


def sample(
    scene, targets=TARGETS, flipped=False, bucket=(64, 64), min_max_size=None, max_objects=3
):
    return make_sample(
        scene,
        bucket=bucket,
        min_max_size=min_max_size,
        max_objects=max_objects,
        targets=targets,
        flipped=flipped,
    )


def test_boxes_and_crops_follow_resize_and_flip():
    scene = example()
    unflipped = sample(scene, min_max_size=(40, 60))
    assert unflipped.image_size.tolist() == [40, 60]
    np.testing.assert_allclose(unflipped.boxes[0], [6, 8, 26, 20])
    np.testing.assert_array_equal(unflipped.masks[0], np.arange(14)[None, :].repeat(14, 0) < 7)
    assert unflipped.valid.tolist() == [True, False, False]
    mirrored = sample(scene, min_max_size=(40, 60), flipped=True)
    np.testing.assert_allclose(mirrored.boxes[0], [34, 8, 54, 20])
    np.testing.assert_array_equal(mirrored.masks[0], unflipped.masks[0][:, ::-1])
    np.testing.assert_array_equal(mirrored.images[:40, :60], unflipped.images[:40, :60][:, ::-1])
    assert not unflipped.images[40:].any()
    assert not unflipped.images[:, 60:].any()


def crop_by_loops(bitmap, box, size):
    """Return the box crop, one bilinear sample at a time; outside of the image the mask is 0."""
    x1, y1, x2, y2 = (float(v) for v in box)
    padded = np.pad(bitmap > 0, 3).astype(float)
    crop = np.zeros((size, size), bool)
    for i in range(size):
        for j in range(size):
            y, x = y1 + (i + 0.5) * (y2 - y1) / size - 0.5, x1 + (j + 0.5) * (x2 - x1) / size - 0.5
            top, left = math.floor(y), math.floor(x)
            down, right = y - top, x - left
            corners = padded[top + 3 : top + 5, left + 3 : left + 5]
            crop[i, j] = [1 - down, down] @ corners @ [1 - right, right] >= 0.5
    return crop


def test_crops_equal_bilinear_samples_taken_one_by_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(5, 40, 2)
        bitmap = (rng.random((height, width)) < 0.5).astype(np.uint8)
        x1, x2 = np.sort(rng.uniform(-1, width + 1, 2))
        y1, y2 = np.sort(rng.uniform(-1, height + 1, 2))
        box = np.asarray([x1, y1, x2, y2], np.float32)
        scene = example(int(height), int(width))._replace(
            boxes=box[None], rles=[mask_api.encode(np.asfortranarray(bitmap))]
        )
        view = full_view((int(height), int(width)), (64, 64), None)
        crop = np.zeros((14, 14), bool)
        fill_box_crop(view_objects(scene, view)[0], crop)
        clipped = box.clip(0, [width, height, width, height])
        np.testing.assert_array_equal(crop, crop_by_loops(bitmap, clipped, 14), err_msg=str(box))


def test_image_masks_cover_the_padded_image():
    scene = example()
    masks = sample(scene, targets=TargetSpec(ImageMasks(1))).masks[0]
    expected = np.zeros((64, 64), bool)
    expected[:20, :30] = mask_api.decode(scene.rles[0])
    np.testing.assert_array_equal(masks, expected)
    assert sample(scene, targets=TargetSpec(ImageMasks(4))).masks.shape == (3, 16, 16)
    with pytest.raises(ValueError, match="not a multiple of the mask stride 5"):
        sample(scene, targets=TargetSpec(ImageMasks(5)))


def test_crowds_are_left_out_and_the_largest_objects_are_kept():
    boxes = [(0, 0, 4, 4), (0, 0, 20, 20), (2, 2, 8, 8), (1, 1, 10, 10), (5, 5, 9, 9)]
    kept = sample(example(boxes=boxes, crowd=[False, True, False, False, False]))
    assert kept.labels.tolist() == [0, 2, 3]
    assert sample(example(boxes=[(0, 0, 4, 4)], crowd=[True])).valid.tolist() == [False] * 3


def test_centres_follow_resize_and_flip():
    scene = example(boxes=((3.0, 4.0, 13.0, 10.0), (20.0, 2.0, 28.0, 12.0)))
    targets = TargetSpec(ImageMasks(4), centers=True)
    unflipped = sample(scene, targets, min_max_size=(40, 60))
    # Pixels 3 to 7 across and 4 to 9 down, then all twice as large.
    np.testing.assert_allclose(unflipped.centers[0], [(5 + 0.5) * 2 - 0.5, (6.5 + 0.5) * 2 - 0.5])
    mirrored = sample(scene, targets, flipped=True, min_max_size=(40, 60))
    np.testing.assert_allclose(mirrored.centers[0], [59 - unflipped.centers[0, 0], 13.5])
    assert sample(scene).centers is None

    empty = scene._replace(rles=[scene.rles[0], mask_api.encode(np.zeros((20, 30), np.uint8, "F"))])
    for other in (TARGETS, TargetSpec(ImageMasks(1))):
        assert sample(empty, other).valid.tolist() == [True, True, False]
    assert sample(empty, targets).valid.tolist() == [True, False, False]


def test_of_too_many_objects_those_with_the_largest_boxes_are_kept_in_order():
    """The larger ones are at the origin, where their coordinates are the smaller ones."""
    corners = [(40, 30, 43, 34), (0, 0, 9, 2), (50, 2, 52, 12), (2, 3, 10, 9), (30, 30, 31, 31)]
    example = scene([rectangle(40, 60, *box) for box in corners])
    for count, kept in ((1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (6, range(5))):
        sample = make_sample(
            example,
            bucket=(64, 64),
            min_max_size=(40, 60),
            max_objects=count,
            targets=TargetSpec(),
            flipped=False,
        )
        number = len(kept)
        np.testing.assert_array_equal(sample.labels[:number], kept)
        np.testing.assert_array_equal(sample.boxes[:number], np.asarray(corners)[kept])
        np.testing.assert_array_equal(sample.valid, np.arange(count) < number)
