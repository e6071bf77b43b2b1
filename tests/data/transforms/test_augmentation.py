"""Every augmentation of every kind of image gives a valid training sample."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data import Augmentation, DataConfig, Shapes, train_batches
from jaxseg.data.transforms.augmentation import ColorJitter, CopyPaste, RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.sample import make_sample, train_sample
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec
from tests.data.scenes import Examples, blobs, rectangle, scene

BUCKET = (64, 96)
ALL = Augmentation(
    lsj=ScaleJitter(), crop=RandomSizeCrop(1.0), copy_paste=CopyPaste(1.0), color=ColorJitter()
)
CHANGES = {
    "none": Augmentation(hflip_prob=0.0),
    "flip": Augmentation(hflip_prob=1.0),
    "min_sizes": Augmentation(min_sizes=(20, 40, 60)),
    "lsj": Augmentation(lsj=ScaleJitter()),
    "crop": Augmentation(crop=RandomSizeCrop(1.0, (60, 80), 30, 60)),
    "copy_paste": Augmentation(copy_paste=CopyPaste(1.0)),
    "color": Augmentation(color=ColorJitter()),
    "all": ALL,
}
TARGETS = [
    TargetSpec(BoxCrops(14)),
    TargetSpec(ImageMasks(4), centers=True),
    TargetSpec(ImageMasks(1)),
]
RNG = np.random.default_rng(0)
SCENES = {
    "ordinary": scene(blobs(RNG, 50, 70, 4)),
    "empty": scene([], size=(50, 70)),
    "only crowds": scene(blobs(RNG, 50, 70, 2), iscrowd=[True, True]),
    "one pixel": scene([np.ones((1, 1), bool)]),
    "larger than the bucket": scene(blobs(RNG, 300, 500, 3)),
    "very long": scene([rectangle(2, 900, 0, 0, 400, 1), rectangle(2, 900, 899, 1, 900, 2)]),
    "boxes without area": scene(
        [rectangle(50, 70, 5, 5, 6, 9)] * 2, boxes=[(5, 5, 5, 9), (6, 9, 6, 9)]
    ),
    "boxes partly outside": scene(
        [rectangle(50, 70, 0, 0, 9, 9), rectangle(50, 70, 60, 40, 70, 50)],
        boxes=[(-4, -3, 9, 9), (60, 40, 75.5, 54)],
    ),
    "masks without a pixel": scene([np.zeros((50, 70), bool)], boxes=[(5, 6, 25, 30)]),
    "more objects than slots": scene(blobs(RNG, 50, 70, 30)),
}


def random_sample(name, changes, targets, seed, **fields):
    settings = {"min_size": 60, "max_size": 90, "max_objects": 12, "augmentation": changes} | fields
    config = DataConfig(Shapes(), (BUCKET,), **settings)
    source = Examples(SCENES[name], SCENES["ordinary"])
    rng = np.random.default_rng([seed])
    return train_sample(source, 0, rng, config=config, bucket=BUCKET, targets=targets)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SCENES)
def test_every_augmentation_of_every_image_gives_a_valid_sample(name, change, targets):
    for seed in range(4):
        sample = random_sample(name, CHANGES[change], targets, seed)
        height, width = sample.image_size
        count = int(sample.valid.sum())
        assert 1 <= height <= BUCKET[0]
        assert 1 <= width <= BUCKET[1]
        assert not sample.images[height:].any()
        assert not sample.images[:, width:].any()
        assert sample.valid[:count].all()
        for field in (sample.boxes, sample.labels, sample.masks, sample.centers):
            assert field is None or (np.isfinite(field).all() and not field[count:].any())
        boxes = sample.boxes[:count]
        if name != "boxes without area":
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        if name != "boxes partly outside":
            assert (boxes >= 0).all()
            assert (boxes <= np.asarray([width, height, width, height]) * (1 + 1e-6)).all()
        pastes = change in ("copy_paste", "all")
        if name in ("empty", "only crowds") and not pastes:
            assert count == 0
        if name == "ordinary" and change not in ("lsj", "crop") and not pastes:
            assert count == 4
        if name == "more objects than slots" and change in ("none", "flip", "min_sizes", "color"):
            assert count == 12


@pytest.mark.parametrize("change", CHANGES)
def test_samples_depend_on_the_seed_alone(change):
    first, again, other = (
        random_sample("ordinary", CHANGES[change], TARGETS[1], s) for s in (1, 1, 2)
    )
    for name, a, b in zip(first._fields, first, again, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    if change not in ("none", "flip"):
        assert any(
            (random_sample("ordinary", CHANGES[change], TARGETS[1], s).images != first.images).any()
            for s in (2, 3, 4)
        )
    assert other.images.shape == first.images.shape


@pytest.mark.parametrize("targets", TARGETS)
def test_train_sample_without_augmentation_equals_make_sample(targets):
    fixed = make_sample(
        SCENES["ordinary"],
        bucket=BUCKET,
        min_max_size=(60, 90),
        max_objects=12,
        targets=targets,
        flipped=False,
    )
    for a, b in zip(random_sample("ordinary", CHANGES["none"], targets, 0), fixed, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("resize_backend", "dtype"), [("torch", np.float32), ("pillow", np.uint8)])
def test_all_augmentations_with_other_resize_backends(resize_backend, dtype):
    for seed in range(5):
        sample = random_sample("ordinary", ALL, TARGETS[0], seed, resize_backend=resize_backend)
        assert sample.images.dtype == dtype
        assert sample.images.min() >= 0
        assert sample.images.max() <= 255


def test_augmented_batches_do_not_depend_on_num_threads():
    source = Shapes(size=64, train_images=10)
    config = DataConfig(source, (BUCKET,), 60, 90, max_objects=8, augmentation=ALL)
    streams = [
        train_batches(
            source.open("train"),
            dataclasses.replace(config, num_threads=num_threads),
            TARGETS[1],
            batch_size=2,
            seed=0,
        )
        for num_threads in (1, 4)
    ]
    for _ in range(3):
        for a, b in zip(*(next(stream) for stream in streams), strict=True):
            np.testing.assert_array_equal(a, b)
    for stream in streams:
        stream.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleJitter(0.0, 1.0), "lsj: min_scale 0.0 and max_scale 1.0"),
        (lambda: ScaleJitter(2.0, 1.0), "0 < min_scale <= max_scale"),
        (lambda: RandomSizeCrop(1.5), "crop: prob 1.5 must be between 0 and 1"),
        (lambda: RandomSizeCrop(resize_to=()), r"crop: resize_to \(\)"),
        (lambda: RandomSizeCrop(min_size=0), "crop: min_size 0"),
        (lambda: RandomSizeCrop(min_size=-1), "crop: min_size -1"),
        (lambda: CopyPaste(min_visible_fraction=-0.1), "copy_paste: min_visible_fraction -0.1"),
        (lambda: ColorJitter(hue=0.6), "color: hue 0.6 must be between 0 and 0.5"),
        (lambda: ColorJitter(contrast=-1.0), "color: contrast -1.0"),
        (lambda: Augmentation(hflip_prob=2.0), "augmentation: hflip_prob 2.0"),
        (lambda: Augmentation(min_sizes=(0,)), r"augmentation: min_sizes \(0,\)"),
        (lambda: Augmentation(min_sizes=(640,), lsj=ScaleJitter()), "set only one of them"),
        (
            lambda: DataConfig(
                Shapes(), (BUCKET,), 60, 90, augmentation=Augmentation(min_sizes=(61,))
            ),
            r"min_sizes \(61,\) must not exceed",
        ),
        (
            lambda: DataConfig(Shapes(), (BUCKET,), augmentation=Augmentation(min_sizes=(61,))),
            "min_size None",
        ),
    ],
)
def test_invalid_settings_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
