import dataclasses

import numpy as np
import pytest

from jaxseg.data import Augmentation, CocoFolder, DataConfig, Shapes
from jaxseg.data.transforms.augmentation import CopyPaste, ScaleJitter
from jaxseg.data.transforms.copy_paste import choose, paste
from jaxseg.data.transforms.objects import center_of_mass, place
from jaxseg.data.transforms.sample import _pack, train_sample
from jaxseg.data.transforms.view import plain_view
from jaxseg.types import MaskFrame, MaskSpec
from tests.data.scenes import Examples, blobs, rectangle, scene, tight

CANVAS = (48, 64)
PIXELS = MaskSpec(MaskFrame.IMAGE, 1, centers=True)


def lay(bitmaps, seed):
    """A scene unchanged on the canvas: picture, size, objects."""
    example = scene(bitmaps, seed=seed)
    view = plain_view(example.image.shape[:2], CANVAS, None)
    return view.draw(example.image, CANVAS, "cv2"), view.size, place(example, view)


def on_canvas(bitmap):
    full = np.zeros(CANVAS, bool)
    full[: bitmap.shape[0], : bitmap.shape[1]] = bitmap
    return full


@pytest.mark.parametrize("seed", range(30))
def test_pasting_is_what_loops_over_whole_bitmaps_give(seed):
    """Pictures, masks, boxes, centres and who is dropped, against whole bitmaps on the canvas."""
    rng = np.random.default_rng(seed)
    below, above = (rng.integers(8, 48, 2).tolist() for _ in range(2))
    masks, others = blobs(rng, *below, 5), blobs(rng, *above, 2)
    picture, size, objects = lay(masks, 1)
    other, _, pasted = lay(others, 2)
    before = picture.copy()
    grown, shown = paste(picture, size, objects, other, pasted, 0.3)

    cover = np.any([on_canvas(b) for b in others], axis=0)
    reach = tight(cover)
    assert grown == (max(below[0], reach[3]), max(below[1], reach[2]))
    expected = np.zeros_like(before)
    expected[: grown[0], : grown[1]] = 128
    expected[: size[0], : size[1]] = before[: size[0], : size[1]]
    expected[cover] = other[cover]
    np.testing.assert_array_equal(picture, expected)

    visible = [on_canvas(b) & ~cover for b in masks]
    kept = [
        v for v, b in zip(visible, masks, strict=True) if v.any() and v.sum() >= 0.3 * b.sum()
    ] + [on_canvas(b) for b in others]
    sample = _pack(picture, grown, shown, 10, PIXELS)
    assert sample.valid.sum() == len(kept)
    for slot, mask in enumerate(kept):
        np.testing.assert_array_equal(sample.masks[slot], mask)
        np.testing.assert_array_equal(sample.boxes[slot], tight(mask))
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(sample.centers[slot], [xs.mean(), ys.mean()], rtol=1e-5)
    beneath = sample.masks[: len(kept) - len(others)]
    assert not (beneath & cover).any()


def test_crops_lose_what_is_covered():
    """The right half of a rectangle is covered; its box becomes the left half, full of it."""
    picture, size, objects = lay(
        [rectangle(40, 50, 10, 10, 30, 20), rectangle(40, 50, 0, 30, 9, 40)], 1
    )
    other, _, pasted = lay([rectangle(40, 50, 20, 5, 40, 15)], 2)
    _, shown = paste(picture, size, objects, other, pasted, 0.1)
    sample = _pack(picture, size, shown, 4, MaskSpec(MaskFrame.GRID_SAMPLE, 20))
    assert sample.boxes[0].tolist() == [10, 10, 30, 20]  # its lower right is still in sight
    expected = np.ones((20, 20), bool)
    expected[:10, 10:] = False
    np.testing.assert_array_equal(sample.masks[0], expected)
    assert sample.masks[1].all()
    assert sample.masks[2].all()
    assert shown[1] is objects[1]  # not touched, hence not changed
    np.testing.assert_allclose(center_of_mass(shown[2]), [29.5, 9.5])


def test_objects_nearly_hidden_are_dropped_at_the_share_told():
    bitmap = rectangle(40, 50, 0, 0, 10, 10)
    for rows, least, stays in ((9, 0.1, True), (9, 0.11, False), (10, 0.0, False), (0, 1.0, True)):
        picture, size, objects = lay([bitmap], 1)
        cover = rectangle(40, 50, 0, 0, 10, rows) if rows else rectangle(40, 50, 20, 20, 30, 30)
        other, _, pasted = lay([cover], 2)
        _, shown = paste(picture, size, objects, other, pasted, least)
        assert (shown[0].label == 0 and len(shown) == 2) == stays, (rows, least)


def test_nothing_to_paste_changes_nothing():
    picture, size, objects = lay([rectangle(40, 50, 0, 0, 10, 10)], 1)
    other, _, empty = lay([np.zeros((40, 50), bool)], 2)
    before = picture.copy()
    for nothing in ([], empty):
        assert paste(picture, size, objects, other, nothing, 0.1) == (size, objects)
    np.testing.assert_array_equal(picture, before)
    assert choose([], np.random.default_rng(0)) == []


def test_one_to_all_objects_are_chosen_each_as_likely():
    _, _, objects = lay(blobs(np.random.default_rng(0), 40, 50, 4), 1)
    chosen = [choose(objects, np.random.default_rng(seed)) for seed in range(800)]
    counts = np.bincount([len(c) for c in chosen], minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 150
    labels = np.bincount([item.label for c in chosen for item in c])
    np.testing.assert_allclose(labels / 800, 2.5 / 4, atol=0.06)


def config(*examples, changes):
    return DataConfig(Shapes(), (CANVAS,), None, max_objects=12, augmentation=changes)


def test_crowds_are_never_pasted_and_partners_come_from_the_whole_split():
    crowd = scene([rectangle(40, 50, 0, 0, 40, 40)], crowd=[True], seed=1)
    first = scene([rectangle(40, 50, 0, 0, 5, 5)], seed=2)
    second = scene([rectangle(40, 50, 10, 10, 30, 30)], seed=3)
    source = Examples(crowd, first, second)
    changes = Augmentation(hflip_prob=0.0, copy_paste=CopyPaste(1.0))
    valid = []
    for seed in range(60):
        sample = train_sample(
            source,
            0,
            np.random.default_rng(seed),
            config=config(changes=changes),
            bucket=CANVAS,
            needs=PIXELS,
        )
        valid.append(tuple(sample.boxes[sample.valid][:, 0].tolist()))
        if not sample.valid.any():
            np.testing.assert_array_equal(sample.images[:40, :50], crowd.image)
    assert set(valid) == {(), (0.0,), (10.0,)}
    assert 10 < valid.count(()) < 30


def test_photographs_bring_masks_boxes_and_centres_that_agree(shared):
    """On COCO: every object that was pasted upon or cut has a box that is its mask's."""
    source = CocoFolder(str(shared / "data" / "coco_mini")).open("val2017")
    changes = Augmentation(lsj=ScaleJitter(), copy_paste=CopyPaste(1.0))
    settings = dataclasses.replace(config(changes=changes), max_objects=100)
    pixels = objects = 0
    for index in range(12):
        arguments = {"config": settings, "bucket": (256, 256)}
        whole = train_sample(source, index, np.random.default_rng(index), needs=PIXELS, **arguments)
        boxed = train_sample(
            source,
            index,
            np.random.default_rng(index),
            needs=MaskSpec(MaskFrame.GRID_SAMPLE, 28, centers=True),
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
            pixels += outside.sum()
            assert (center > box[:2] - 2).all()
            assert (center < box[2:] + 2).all()
            objects += 1
    assert objects > 50
    assert pixels == 0
