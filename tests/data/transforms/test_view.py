import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data import Augmentation, DataConfig, Shapes
from jaxseg.data.transforms.augmentation import RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.objects import view_objects
from jaxseg.data.transforms.sample import make_sample
from jaxseg.data.transforms.view import View, full_view, random_view
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec
from tests.data.scenes import blobs, scene, tight_box

BUCKET = (64, 96)
BASE = DataConfig(Shapes(), (BUCKET,), None)


def random_views(changes, original_size, count, bucket=BUCKET, **fields):
    """Return views with the seeds from 0 to `count`."""
    config = dataclasses.replace(BASE, augmentation=changes, **fields)
    return [
        random_view(original_size, np.random.default_rng([seed]), config, bucket)
        for seed in range(count)
    ]


def crop_and_flip(bitmaps, view):
    """Return the masks, cropped to the view's region and flipped as whole bitmaps."""
    top, left, bottom, right = view.region
    mirror = slice(None, None, -1 if view.flipped else 1)
    return [mask[top:bottom, left:right][:, mirror] for mask in bitmaps]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_a_view_equals_cropping_and_flipping_beforehand(seed):
    """Compare images, and boxes and bounds of objects that the view cuts."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    bitmaps = blobs(rng, height, width, 4)
    example = scene(bitmaps)
    y, x = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in (height, width))
    size = int(rng.integers(1, 65)), int(rng.integers(1, 97))
    view = View((height, width), (y[0], x[0], y[1], x[1]), bool(rng.integers(2)), size)

    inside = [b for b in crop_and_flip(bitmaps, view) if b.any()]
    labels = [i for i, b in enumerate(crop_and_flip(bitmaps, view)) if b.any()]
    objects = view_objects(example, view)
    assert [item.label for item in objects] == labels
    scale_factor = view.scale_factor
    for item, bitmap in zip(objects, inside, strict=True):
        np.testing.assert_array_equal(
            item.box, np.asarray(tight_box(bitmap), np.float32) * scale_factor
        )
        assert item.bounds == tuple(np.asarray(tight_box(bitmap))[[1, 0, 3, 2]])
    cropped = example.image[y[0] : y[1], x[0] : x[1]][:, :: -1 if view.flipped else 1]
    expected = cv2.resize(np.ascontiguousarray(cropped), size[::-1], interpolation=cv2.INTER_LINEAR)
    padded = view.render(example.image, BUCKET)
    np.testing.assert_array_equal(padded[: size[0], : size[1]], expected)
    assert padded.sum() == expected.sum()


@pytest.mark.parametrize(
    "targets", [TargetSpec(BoxCrops(14)), TargetSpec(ImageMasks(4), centers=True)]
)
def test_flips_and_crops_without_resizing_are_exact(targets):
    """A crop has the boxes of an image cropped beforehand, a flip a mirrored image's sample."""
    rng = np.random.default_rng(0)
    bitmaps = blobs(rng, 40, 60, 5)
    example = scene(bitmaps)
    region = (7, 10, 35, 50)
    in_view = view_objects(example, View((40, 60), region, False, (28, 40)))
    cut = scene([b[7:35, 10:50] for b in bitmaps if b[7:35, 10:50].any()], seed=1)
    expected = view_objects(cut, full_view((28, 40), BUCKET, None))
    for a, b in zip(in_view, expected, strict=True):
        np.testing.assert_array_equal(a.box, b.box)
    flipped = make_sample(
        example, bucket=BUCKET, min_max_size=None, max_objects=8, targets=targets, flipped=True
    )
    mirrored = scene([b[:, ::-1] for b in bitmaps])._replace(image=example.image[:, ::-1])
    unflipped = make_sample(
        mirrored, bucket=BUCKET, min_max_size=None, max_objects=8, targets=targets, flipped=False
    )
    for name, a, b in zip(flipped._fields, flipped, unflipped, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_annotated_boxes_are_clipped_to_the_view_and_kept_unless_it_cuts_the_mask():
    bitmap = np.zeros((20, 30), bool)
    bitmap[5:10, 5:10] = True
    example = scene([bitmap], boxes=[(-2.5, 4.5, 10.5, 10.25)])
    (whole,) = view_objects(example, full_view((20, 30), BUCKET, None))
    assert whole.box.tolist() == [0, 4.5, 10.5, 10.25]
    (mirrored,) = view_objects(example, full_view((20, 30), BUCKET, None, flipped=True))
    assert mirrored.box.tolist() == [19.5, 4.5, 30, 10.25]
    outside = scene([bitmap], boxes=[(-5, 4.5, 0, 10.25)])
    assert view_objects(outside, full_view((20, 30), BUCKET, None)) == []
    (part,) = view_objects(example, View((20, 30), (5, 5, 15, 15), False, (10, 10)))
    assert part.box.tolist() == [0, 0, 5.5, 5.25]
    (cut,) = view_objects(example, View((20, 30), (6, 5, 15, 15), False, (9, 10)))
    assert cut.box.tolist() == [0, 0, 5, 4]
    assert view_objects(example, View((20, 30), (10, 5, 15, 15), False, (5, 10))) == []


def test_min_sizes_are_drawn_uniformly_and_limited_by_max_size():
    min_sizes = (20, 30, 40)
    drawn = random_views(Augmentation(min_sizes=min_sizes), (50, 60), 600, min_size=40, max_size=90)
    heights = np.asarray([v.size[0] for v in drawn])
    assert set(heights) == set(min_sizes)
    np.testing.assert_allclose([(heights == s).mean() for s in min_sizes], 1 / 3, atol=0.07)
    assert all(v.size[1] == round(v.size[0] * 1.2) and v.is_full_image for v in drawn)
    long = random_views(Augmentation(min_sizes=(40,)), (20, 100), 1, min_size=40, max_size=90)[0]
    assert long.size == (18, 90)


def test_the_share_of_flips_is_hflip_prob():
    flips = [v.flipped for v in random_views(Augmentation(hflip_prob=0.25), (20, 20), 1000)]
    assert abs(np.mean(flips) - 0.25) < 0.05
    assert not any(v.flipped for v in random_views(Augmentation(hflip_prob=0.0), (20, 20), 50))


def test_lsj_draws_scales_uniformly():
    """480x640 fits into a bucket of 512x512 at the scale 0.8."""
    drawn = random_views(Augmentation(lsj=ScaleJitter(0.1, 2.0)), (480, 640), 1000, (512, 512))
    scales = np.asarray([v.size[1] / v.region_size[1] for v in drawn]) / 0.8
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
def test_every_view_is_inside_image_and_bucket(original_size, cells, seed, cropped):
    bucket = cells[0] * 32, cells[1] * 32
    changes = Augmentation(lsj=ScaleJitter(), crop=RandomSizeCrop(1.0) if cropped else None)
    config = dataclasses.replace(BASE, augmentation=changes)
    view = random_view(original_size, np.random.default_rng(seed), config, bucket)
    top, left, bottom, right = view.region
    assert 0 <= top < bottom <= original_size[0]
    assert 0 <= left < right <= original_size[1]
    assert all(1 <= s <= c for s, c in zip(view.size, bucket, strict=True))
    scales = [s / p for s, p in zip(view.size, view.region_size, strict=True)]
    # Each side of either rectangle is rounded to a whole number, by up to a half.
    tolerance = sum(0.5 / s + 0.5 / p for s, p in zip(view.size, view.region_size, strict=True))
    if min(view.size) > 1:
        assert abs(np.log(scales[0] / scales[1])) < 2 * tolerance + 1e-6


def test_lsj_crops_every_position_equally_likely():
    views = random_views(Augmentation(lsj=ScaleJitter(2.0, 2.0)), (64, 96), 1000)
    assert {v.region_size for v in views} == {(32, 48)}
    tops, lefts = (np.asarray([v.region[i] for v in views]) for i in (0, 1))
    for starts, slack in ((tops, 32), (lefts, 48)):
        assert starts.min() == 0
        assert starts.max() == slack
        assert abs(starts.mean() - slack / 2) < 0.05 * slack


def test_lsj_keeps_a_whole_pixel_at_any_scale():
    views = random_views(Augmentation(lsj=ScaleJitter(1000.0, 1000.0)), (64, 96), 20)
    assert {(view.region_size, view.size) for view in views} == {((1, 1), (64, 96))}


def test_crop_sizes_are_relative_to_resize_to():
    """Resizing the shorter side, 100, to 200 or 400 gives sides from 20 to 40 or from 10 to 20."""
    crop = RandomSizeCrop(1.0, resize_to=(200, 400), min_size=40, max_size=80)
    sides = np.asarray(
        [v.region_size for v in random_views(Augmentation(crop=crop), (100, 300), 500)]
    )
    assert sides.min() == 10
    assert sides.max() == 40
    assert len(set(sides[:, 0])) > 15
    assert np.corrcoef(sides.T)[0, 1] < 0.9  # each side is drawn on its own
    whole = [
        v.is_full_image
        for v in random_views(Augmentation(crop=RandomSizeCrop(0.3, (1000,))), (1000, 1000), 1000)
    ]
    assert abs(np.mean(whole) - 0.7) < 0.05
    small = random_views(Augmentation(crop=RandomSizeCrop(1.0, (400,), 500, 600)), (40, 40), 3)
    assert all(v.is_full_image for v in small)


def test_augmentations_draw_independently():
    lsj, crop = ScaleJitter(0.2, 0.9), RandomSizeCrop(1.0)
    alone = random_views(Augmentation(lsj=lsj), (64, 96), 20)
    flips = random_views(Augmentation(), (64, 96), 20)
    crops = random_views(Augmentation(crop=crop), (64, 96), 20)
    both = random_views(Augmentation(lsj=lsj, crop=crop), (64, 96), 20)
    assert [v.flipped for v in alone] == [v.flipped for v in flips] == [v.flipped for v in both]
    assert [v.region for v in both] == [v.region for v in crops]
    expected = [min(64 / v.region_size[0], 96 / v.region_size[1]) for v in both]
    drawn = [v.size[0] / v.region_size[0] for v in both]
    scale = [v.size[0] / 64 for v in alone]
    np.testing.assert_allclose(np.divide(drawn, expected), scale, rtol=0.05)
