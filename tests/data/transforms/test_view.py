import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data import Augmentation, DataConfig, Shapes
from jaxseg.data.transforms.augmentation import RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.objects import place
from jaxseg.data.transforms.sample import make_sample
from jaxseg.data.transforms.view import View, plain_view, random_view
from jaxseg.types import MaskFrame, MaskSpec
from tests.data.scenes import blobs, scene, tight

CANVAS = (64, 96)
BASE = DataConfig(Shapes(), (CANVAS,), None)


def views(changes, stored, count, bucket=CANVAS, **fields):
    config = dataclasses.replace(BASE, augmentation=changes, **fields)
    return [
        random_view(stored, np.random.default_rng([seed]), config, bucket) for seed in range(count)
    ]


def cut_and_flipped(bitmaps, view):
    """The masks as they would be had nobody ever seen more than the view's region."""
    top, left, bottom, right = view.region
    mirror = slice(None, None, -1 if view.flipped else 1)
    return [mask[top:bottom, left:right][:, mirror] for mask in bitmaps]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_a_view_is_exactly_what_cutting_and_flipping_first_gives(seed):
    """Pictures, boxes and bounds, of objects that the view cuts."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    bitmaps = blobs(rng, height, width, 4)
    example = scene(bitmaps)
    y, x = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in (height, width))
    size = int(rng.integers(1, 65)), int(rng.integers(1, 97))
    view = View((height, width), (y[0], x[0], y[1], x[1]), bool(rng.integers(2)), size)

    left = [b for b in cut_and_flipped(bitmaps, view) if b.any()]
    labels = [i for i, b in enumerate(cut_and_flipped(bitmaps, view)) if b.any()]
    placed = place(example, view)
    assert [item.label for item in placed] == labels
    factors = view.factors
    for item, bitmap in zip(placed, left, strict=True):
        np.testing.assert_array_equal(item.box, np.asarray(tight(bitmap), np.float32) * factors)
        assert item.bounds == tuple(np.asarray(tight(bitmap))[[1, 0, 3, 2]])
    cut = example.image[y[0] : y[1], x[0] : x[1]][:, :: -1 if view.flipped else 1]
    expected = cv2.resize(np.ascontiguousarray(cut), size[::-1], interpolation=cv2.INTER_LINEAR)
    picture = view.draw(example.image, CANVAS, "cv2")
    np.testing.assert_array_equal(picture[: size[0], : size[1]], expected)
    assert picture.sum() == expected.sum()


@pytest.mark.parametrize(
    "needs", [MaskSpec(MaskFrame.GRID_SAMPLE, 14), MaskSpec(MaskFrame.IMAGE, 4, True)]
)
def test_flips_and_integer_crops_are_exact(needs):
    """A crop at its own size has the cut image's boxes, a flip is the mirrored image's sample."""
    rng = np.random.default_rng(0)
    bitmaps = blobs(rng, 40, 60, 5)
    example = scene(bitmaps)
    region = (7, 10, 35, 50)
    seen = place(example, View((40, 60), region, False, (28, 40)))
    cut = scene([b[7:35, 10:50] for b in bitmaps if b[7:35, 10:50].any()], seed=1)
    plain = place(cut, plain_view((28, 40), CANVAS, None))
    for a, b in zip(seen, plain, strict=True):
        np.testing.assert_array_equal(a.box, b.box)
    once = make_sample(
        example, bucket=CANVAS, min_max_size=None, max_objects=8, needs=needs, flipped=True
    )
    mirrored = scene([b[:, ::-1] for b in bitmaps])._replace(image=example.image[:, ::-1])
    again = make_sample(
        mirrored, bucket=CANVAS, min_max_size=None, max_objects=8, needs=needs, flipped=False
    )
    for name, a, b in zip(once._fields, once, again, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_annotated_boxes_stay_where_nothing_is_cut_and_end_at_the_view_where_it_is_a_part():
    bitmap = np.zeros((20, 30), bool)
    bitmap[5:10, 5:10] = True
    example = scene([bitmap], boxes=[(-2.5, 4.5, 10.5, 10.25)])
    (whole,) = place(example, plain_view((20, 30), CANVAS, None))
    assert whole.box.tolist() == [-2.5, 4.5, 10.5, 10.25]
    (part,) = place(example, View((20, 30), (5, 5, 15, 15), False, (10, 10)))
    assert part.box.tolist() == [0, 0, 5.5, 5.25]
    (cut,) = place(example, View((20, 30), (6, 5, 15, 15), False, (9, 10)))
    assert cut.box.tolist() == [0, 0, 5, 4]
    assert place(example, View((20, 30), (10, 5, 15, 15), False, (5, 10))) == []


def test_scales_are_drawn_evenly_and_keep_the_longer_side():
    scales = (20, 30, 40)
    drawn = views(Augmentation(min_sizes=scales), (50, 60), 600, min_size=40, max_size=90)
    heights = np.asarray([v.size[0] for v in drawn])
    assert set(heights) == set(scales)
    np.testing.assert_allclose([(heights == s).mean() for s in scales], 1 / 3, atol=0.07)
    assert all(v.size[1] == round(v.size[0] * 1.2) and v.whole for v in drawn)
    long = views(Augmentation(min_sizes=(40,)), (20, 100), 1, min_size=40, max_size=90)[0]
    assert long.size == (18, 90)


def test_flips_come_as_often_as_told():
    flips = [v.flipped for v in views(Augmentation(hflip_prob=0.25), (20, 20), 1000)]
    assert abs(np.mean(flips) - 0.25) < 0.05
    assert not any(v.flipped for v in views(Augmentation(hflip_prob=0.0), (20, 20), 50))


def test_jitter_draws_scales_evenly_between_its_ends():
    """Of 480x640 on a canvas of 512x512, the scale that just fits is 0.8."""
    drawn = views(Augmentation(lsj=ScaleJitter(0.1, 2.0)), (480, 640), 1000, (512, 512))
    scales = np.asarray([v.size[1] / v.part[1] for v in drawn]) / 0.8
    assert 0.099 < scales.min() < 0.12
    assert 1.98 < scales.max() < 2.01
    counts, _ = np.histogram(scales, 10, (0.1, 2.0))
    assert counts.min() > 70  # 100 expected, of which 9.5 is one standard deviation
    assert counts.max() < 130


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_every_view_lies_inside_image_and_canvas(stored, cells, seed, cropped):
    bucket = cells[0] * 32, cells[1] * 32
    changes = Augmentation(lsj=ScaleJitter(), crop=RandomSizeCrop(1.0) if cropped else None)
    config = dataclasses.replace(BASE, augmentation=changes)
    view = random_view(stored, np.random.default_rng(seed), config, bucket)
    top, left, bottom, right = view.region
    assert 0 <= top < bottom <= stored[0]
    assert 0 <= left < right <= stored[1]
    assert all(1 <= s <= c for s, c in zip(view.size, bucket, strict=True))
    scales = [s / p for s, p in zip(view.size, view.part, strict=True)]
    # Each side of either rectangle is a whole number, so that each is off by up to a half of one.
    slack = sum(0.5 / s + 0.5 / p for s, p in zip(view.size, view.part, strict=True))
    if min(view.size) > 1:
        assert abs(np.log(scales[0] / scales[1])) < 2 * slack + 1e-6


def test_jitter_sees_every_part_as_likely():
    views_ = views(Augmentation(lsj=ScaleJitter(2.0, 2.0)), (64, 96), 1000)
    assert {v.part for v in views_} == {(32, 48)}
    tops, lefts = (np.asarray([v.region[i] for v in views_]) for i in (0, 1))
    for starts, room in ((tops, 32), (lefts, 48)):
        assert starts.min() == 0
        assert starts.max() == room
        assert abs(starts.mean() - room / 2) < 0.05 * room


def test_crops_have_sides_between_the_ends_at_one_of_the_scales():
    """The shorter side, 100, is thought to be 200 or 400: sides from 20 to 40 or 10 to 20."""
    crop = RandomSizeCrop(1.0, resize_to=(200, 400), min_size=40, max_size=80)
    sides = np.asarray([v.part for v in views(Augmentation(crop=crop), (100, 300), 500)])
    assert sides.min() == 10
    assert sides.max() == 40
    assert len(set(sides[:, 0])) > 15
    assert np.corrcoef(sides.T)[0, 1] < 0.9  # both sides are drawn
    whole = [
        v.whole for v in views(Augmentation(crop=RandomSizeCrop(0.3, (1000,))), (1000, 1000), 1000)
    ]
    assert abs(np.mean(whole) - 0.7) < 0.05
    small = views(Augmentation(crop=RandomSizeCrop(1.0, (400,), 500, 600)), (40, 40), 3)
    assert all(v.whole for v in small)


def test_one_augmentation_does_not_change_what_another_draws():
    lsj, crop = ScaleJitter(0.2, 0.9), RandomSizeCrop(1.0)
    alone = views(Augmentation(lsj=lsj), (64, 96), 20)
    flips = views(Augmentation(), (64, 96), 20)
    crops = views(Augmentation(crop=crop), (64, 96), 20)
    both = views(Augmentation(lsj=lsj, crop=crop), (64, 96), 20)
    assert [v.flipped for v in alone] == [v.flipped for v in flips] == [v.flipped for v in both]
    assert [v.region for v in both] == [v.region for v in crops]
    expected = [min(64 / v.part[0], 96 / v.part[1]) for v in both]
    drawn = [v.size[0] / v.part[0] for v in both]
    scale = [v.size[0] / 64 for v in alone]
    np.testing.assert_allclose(np.divide(drawn, expected), scale, rtol=0.05)
