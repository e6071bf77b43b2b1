import dataclasses

import numpy as np
import pytest

from jaxseg.data import Augmentation, CocoFolder, DataConfig, Shapes
from jaxseg.data.transforms.augmentation import CopyPaste, ScaleJitter
from jaxseg.data.transforms.copy_paste import paste_objects, random_subset
from jaxseg.data.transforms.objects import center_of_mass, view_objects
from jaxseg.data.transforms.sample import _build_sample, train_sample
from jaxseg.data.transforms.view import full_view
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec
from tests.data.scenes import Examples, blobs, rectangle, scene, tight_box

BUCKET = (48, 64)
PIXELS = TargetSpec(ImageMasks(1), centers=True)


def view_scene(bitmaps, seed):
    """Return a scene in its bucket, not resized: the padded image, its size and its objects."""
    example = scene(bitmaps, seed=seed)
    view = full_view(example.image.shape[:2], BUCKET, None)
    return view.render(example.image, BUCKET), view.size, view_objects(example, view)


def pad_to_bucket(bitmap):
    padded = np.zeros(BUCKET, bool)
    padded[: bitmap.shape[0], : bitmap.shape[1]] = bitmap
    return padded


@pytest.mark.parametrize("seed", range(30))
def test_pasting_equals_operations_on_whole_bitmaps(seed):
    """Compare images, masks, boxes, centres and dropped objects with whole bitmaps."""
    rng = np.random.default_rng(seed)
    size_below, size_above = (rng.integers(8, 48, 2).tolist() for _ in range(2))
    masks, others = blobs(rng, *size_below, 5), blobs(rng, *size_above, 2)
    image, size, objects = view_scene(masks, 1)
    other, _, pasted = view_scene(others, 2)
    before = image.copy()
    size_after, objects_after, pixels = paste_objects(image, size, objects, other, pasted, 0.3)

    occluded = np.any([pad_to_bucket(b) for b in others], axis=0)
    np.testing.assert_array_equal(pixels, occluded)
    bounds = tight_box(occluded)
    assert size_after == (max(size_below[0], bounds[3]), max(size_below[1], bounds[2]))
    expected = np.zeros_like(before)
    expected[: size_after[0], : size_after[1]] = 128
    expected[: size[0], : size[1]] = before[: size[0], : size[1]]
    expected[occluded] = other[occluded]
    np.testing.assert_array_equal(image, expected)

    visible = [pad_to_bucket(b) & ~occluded for b in masks]
    kept = [
        v for v, b in zip(visible, masks, strict=True) if v.any() and v.sum() >= 0.3 * b.sum()
    ] + [pad_to_bucket(b) for b in others]
    sample = _build_sample(image, size_after, objects_after, 10, PIXELS)
    assert sample.valid.sum() == len(kept)
    for slot, mask in enumerate(kept):
        np.testing.assert_array_equal(sample.masks[slot], mask)
        np.testing.assert_array_equal(sample.boxes[slot], tight_box(mask))
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(sample.centers[slot], [xs.mean(), ys.mean()], rtol=1e-5)
    masks_below = sample.masks[: len(kept) - len(others)]
    assert not (masks_below & occluded).any()


def test_box_crops_lose_occluded_pixels():
    """An occluded corner is missing from the crop; untouched objects stay unchanged."""
    image, size, objects = view_scene(
        [rectangle(40, 50, 10, 10, 30, 20), rectangle(40, 50, 0, 30, 9, 40)], 1
    )
    other, _, pasted = view_scene([rectangle(40, 50, 20, 5, 40, 15)], 2)
    _, objects_after, _ = paste_objects(image, size, objects, other, pasted, 0.1)
    sample = _build_sample(image, size, objects_after, 4, TargetSpec(BoxCrops(20)))
    assert sample.boxes[0].tolist() == [10, 10, 30, 20]  # its lower right is still visible
    expected = np.ones((20, 20), bool)
    expected[:10, 10:] = False
    np.testing.assert_array_equal(sample.masks[0], expected)
    assert sample.masks[1].all()
    assert sample.masks[2].all()
    assert objects_after[1] is objects[1]  # not occluded, so not changed
    np.testing.assert_allclose(center_of_mass(objects_after[2]), [29.5, 9.5])


def test_objects_are_dropped_below_min_visible_fraction():
    bitmap = rectangle(40, 50, 0, 0, 10, 10)
    for rows, fraction, stays in (
        (9, 0.1, True),
        (9, 0.11, False),
        (10, 0.0, False),
        (0, 1.0, True),
    ):
        image, size, objects = view_scene([bitmap], 1)
        above = rectangle(40, 50, 0, 0, 10, rows) if rows else rectangle(40, 50, 20, 20, 30, 30)
        other, _, pasted = view_scene([above], 2)
        _, objects_after, _ = paste_objects(image, size, objects, other, pasted, fraction)
        assert (objects_after[0].label == 0 and len(objects_after) == 2) == stays, (rows, fraction)


def test_pasting_no_pixels_changes_nothing():
    image, size, objects = view_scene([rectangle(40, 50, 0, 0, 10, 10)], 1)
    other, _, empty = view_scene([np.zeros((40, 50), bool)], 2)
    before = image.copy()
    for nothing in ([], empty):
        *unchanged, pixels = paste_objects(image, size, objects, other, nothing, 0.1)
        assert unchanged == [size, objects]
        assert not pixels.any()
    np.testing.assert_array_equal(image, before)
    assert random_subset([], np.random.default_rng(0)) == []


def test_random_subset_is_uniform_in_number_and_choice():
    _, _, objects = view_scene(blobs(np.random.default_rng(0), 40, 50, 4), 1)
    subsets = [random_subset(objects, np.random.default_rng(seed)) for seed in range(800)]
    counts = np.bincount([len(subset) for subset in subsets], minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 150
    labels = np.bincount([item.label for subset in subsets for item in subset])
    np.testing.assert_allclose(labels / 800, 2.5 / 4, atol=0.06)


def data_config(changes):
    return DataConfig(Shapes(), (BUCKET,), None, max_objects=12, augmentation=changes)


def test_crowds_are_not_pasted_and_pasted_images_come_from_the_whole_split():
    crowd = scene([rectangle(40, 50, 0, 0, 40, 40)], iscrowd=[True], seed=1)
    first = scene([rectangle(40, 50, 0, 0, 5, 5)], seed=2)
    second = scene([rectangle(40, 50, 10, 10, 30, 30)], seed=3)
    source = Examples(crowd, first, second)
    changes = Augmentation(hflip_prob=0.0, copy_paste=CopyPaste(1.0))
    lefts = []
    for seed in range(60):
        sample = train_sample(
            source,
            0,
            np.random.default_rng(seed),
            config=data_config(changes),
            bucket=BUCKET,
            targets=PIXELS,
        )
        lefts.append(tuple(sample.boxes[sample.valid][:, 0].tolist()))
        if not sample.valid.any():
            np.testing.assert_array_equal(sample.images[:40, :50], crowd.image)
    assert set(lefts) == {(), (0.0,), (10.0,)}
    assert 10 < lefts.count(()) < 30


def test_masks_boxes_and_centres_of_coco_images_agree(shared):
    """The mask of every object is inside its box, also of those that are occluded or cropped."""
    source = CocoFolder(str(shared / "data" / "coco_mini")).open("val2017")
    changes = Augmentation(lsj=ScaleJitter(), copy_paste=CopyPaste(1.0))
    settings = dataclasses.replace(data_config(changes), max_objects=100)
    pixels_outside = objects = 0
    for index in range(12):
        arguments = {"config": settings, "bucket": (256, 256)}
        whole = train_sample(
            source, index, np.random.default_rng(index), targets=PIXELS, **arguments
        )
        boxed = train_sample(
            source,
            index,
            np.random.default_rng(index),
            targets=TargetSpec(BoxCrops(28), centers=True),
            **arguments,
        )
        for name in ("images", "image_size", "boxes", "labels", "valid", "centers"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(boxed, name))
        height, width = whole.image_size
        for mask, box, center in zip(
            whole.masks[whole.valid],
            whole.boxes[whole.valid],
            whole.centers[whole.valid],
            strict=True,
        ):
            assert (box[:2] >= 0).all()
            assert (box[2:] <= [width, height]).all()
            assert (box[2:] > box[:2]).all()
            outside = mask.copy()
            x1, y1, x2, y2 = (int(v) for v in [*np.floor(box[:2]), *np.ceil(box[2:])])
            outside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
            pixels_outside += outside.sum()
            assert (center > box[:2] - 2).all()
            assert (center < box[2:] + 2).all()
            objects += 1
    assert objects > 50
    assert pixels_outside == 0
