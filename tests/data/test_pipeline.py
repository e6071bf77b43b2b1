"""The batches of a training: their order, workers, shards, padding and errors."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxseg.data import (
    Augmentation,
    CocoFolder,
    ColorJitter,
    CopyPaste,
    DataConfig,
    RandomSizeCrop,
    ScaleJitter,
    Shapes,
    TrainPipeline,
    eval_batches,
    pipeline,
    shared_arrays,
    train_batches,
    write_coco,
)
from jaxseg.data.order import Order
from jaxseg.data.transforms.sample import train_sample
from jaxseg.types import Batch, BoxCrops, ImageMasks, TargetSpec, padded_shape, unpack_masks
from tests.conftest import ROOT

TARGETS = TargetSpec(BoxCrops(14))
SHAPES = Shapes(size=64, train_images=10, val_images=5)
CONFIG = DataConfig(SHAPES, buckets=((64, 64),), max_objects=8)


def take_batches(count, **options):
    settings = {"batch_size": 4, "seed": 3} | options
    stream = train_batches(SHAPES.open("train"), CONFIG, TARGETS, **settings)
    return [next(stream) for _ in range(count)]


def assert_equal(a: Batch, b: Batch):
    for name, x, y in zip(Batch._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


def test_batches_depend_on_seed_and_step_alone():
    batches = take_batches(6)
    for resumed, expected in zip(take_batches(2, start_step=4), batches[4:], strict=True):
        assert_equal(resumed, expected)
    other = take_batches(1, seed=4)[0]
    assert (other.images != batches[0].images).any()


def test_every_epoch_has_every_image_once_in_another_order():
    source = SHAPES.open("train")
    index_of = {source[i].image.tobytes(): i for i in range(10)}
    index_of |= {source[i].image[:, ::-1].tobytes(): i for i in range(10)}
    order = [index_of[image.tobytes()] for batch in take_batches(5) for image in batch.images]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_every_epoch_changes_an_image_anew():
    """An image alone in its split is flipped in about half of 20 epochs, not in all or none."""
    pipeline = TrainPipeline(
        Shapes(size=64, train_images=1).open("train"),
        DataConfig(Shapes(), ((64, 64),), num_threads=1),
        TARGETS,
        batch_size=20,
        seed=0,
    )
    batches = pipeline.batches()
    images = next(batches).images
    batches.close()
    versions, counts = np.unique(images, axis=0, return_counts=True)
    assert len(versions) == 2
    assert counts.min() >= 3
    np.testing.assert_array_equal(versions[0], versions[1][:, ::-1])


def test_shards_are_the_parts_of_the_global_batch():
    whole = take_batches(3)
    parts = [take_batches(3, shard_index=i, shard_count=2) for i in range(2)]
    for step, batch in enumerate(whole):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(part[step] for part in parts))
        assert_equal(joined, batch)
    with pytest.raises(ValueError, match="does not divide over 3 shards"):
        take_batches(1, shard_count=3)


def test_batches_do_not_depend_on_num_workers_and_start_step():
    batches = take_batches(7)
    for num_workers, start in ((1, 0), (4, 2)):
        config = dataclasses.replace(CONFIG, num_workers=num_workers)
        settings = {"batch_size": 4, "seed": 3, "start_step": start}
        stream = train_batches(SHAPES.open("train"), config, TARGETS, **settings)
        for expected in batches[start:]:
            assert_equal(next(stream), expected)
        stream.close()


def test_augmented_batches_do_not_depend_on_num_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_MIN_FILE_BYTES", 0)  # arrays go through files
    write_coco(Shapes(size=96, train_images=8).open("train"), tmp_path, "train")
    augmentation = Augmentation(
        lsj=ScaleJitter(), crop=RandomSizeCrop(), copy_paste=CopyPaste(), color=ColorJitter()
    )
    streams = [
        train_batches(
            CocoFolder(str(tmp_path)).open("train"),
            DataConfig(
                CocoFolder(str(tmp_path)),
                buckets=((64, 96), (96, 96)),
                min_size=80,
                max_size=96,
                max_objects=12,
                augmentation=augmentation,
                num_workers=num_workers,
            ),
            TargetSpec(ImageMasks(4), centers=True),
            batch_size=3,
            seed=1,
        )
        for num_workers in (0, 2)
    ]
    for _ in range(5):
        assert_equal(*(next(stream) for stream in streams))
    for stream in streams:
        stream.close()


def test_an_empty_split_raises():
    empty = Shapes(train_images=0).open("train")
    with pytest.raises(ValueError, match="no images to train on"):
        train_batches(empty, CONFIG, TARGETS, batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": ()}, "buckets"),
        ({"buckets": ((0, 64),)}, "buckets"),
        ({"min_size": 0, "max_size": 0}, "min_size"),
        ({"max_objects": 0}, "max_objects 0 must be at least 1"),
        ({"num_workers": -1}, "num_workers -1 must be at least 0"),
        (
            {"buckets": ((64, 64), (63, 64)), "space_to_depth": True},
            r"buckets \(\(64, 64\), \(63, 64\)\) must be even with space_to_depth",
        ),
    ],
)
def test_invalid_config_raises(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


class KillingSource:
    """Shapes, one of which kills the process that reads it."""

    fingerprint = ""

    def __init__(self, killing_index):
        self._shapes, self._killing_index = SHAPES.open("train"), killing_index
        self.categories, self.image_ids = self._shapes.categories, self._shapes.image_ids
        self.image_sizes, self.object_counts = self._shapes.image_sizes, None

    def __len__(self):
        return len(self._shapes)

    def __getitem__(self, index, /):
        if index == self._killing_index:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._shapes[index]

    def ground_truth(self):
        return {}


def test_the_error_of_a_killed_worker_names_the_batch():
    index = int(Order(np.zeros(10, int), seed=3, batch_size=4).batch(0).indices[2])
    config = dataclasses.replace(CONFIG, num_workers=1)
    stream = train_batches(KillingSource(index), config, TARGETS, batch_size=4, seed=3)
    with pytest.raises(ChildProcessError, match=rf"step 0 \(image ids .*\b{index + 1}\b.*\)"):
        next(stream)


class TwoSizes:
    """A source of shapes in two alternating sizes."""

    fingerprint = ""

    def __init__(self):
        self._parts = [Shapes(size, 12, 12).open("val") for size in (48, 64)]
        self.categories = self._parts[0].categories
        self.image_ids = list(range(12))
        self.image_sizes = np.asarray([[48, 48], [64, 64]] * 6, np.int32)
        self.object_counts = None

    def __len__(self):
        return 12

    def __getitem__(self, index, /):
        return self._parts[index % 2][index]._replace(image_id=index)

    def ground_truth(self):
        return {}


def test_images_of_a_batch_share_the_bucket_that_they_fit():
    source = TwoSizes()
    config = dataclasses.replace(CONFIG, buckets=((64, 64), (48, 64)))
    stream = train_batches(source, config, TARGETS, batch_size=2, seed=0)
    shapes = set()
    for batch in (next(stream) for _ in range(6)):
        height = 48 if batch.image_size[0, 0] == 48 else 64
        assert batch.images.shape == (2, height, 64, 3)
        assert (batch.image_size[:, 0] == height).all()
        shapes.add(height)
    assert shapes == {48, 64}

    evaluated = list(eval_batches(source, config, batch_size=4))
    assert [b.images.shape[1] for b in evaluated] == [64, 64, 48, 48]
    ids = np.concatenate([b.image_id[b.valid] for b in evaluated])
    assert ids.tolist() == [1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (TARGETS, {}),
        (TargetSpec(ImageMasks(4), centers=True), {}),
        (TARGETS, {"space_to_depth": True, "resize_backend": "torch"}),
    ],
)
def test_the_shapes_of_the_batches_are_known_before(targets, options):
    buckets = ((64, 64), (48, 64), (32, 32))  # no image fits the last alone
    config = dataclasses.replace(CONFIG, buckets=buckets, **options)
    pipeline = TrainPipeline(TwoSizes(), config, targets, 4, seed=0, shard_count=2)
    stream = pipeline.batches(1)
    expected = {}
    for batch in (next(stream) for _ in range(8)):
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        expected.setdefault(batch.images.shape, shapes)
    assert len(expected) == 2
    assert pipeline.abstract_batches(1, 9) == list(expected.values())
    assert pipeline.abstract_batches(1, 2) == list(expected.values())[:1]
    assert pipeline.abstract_batches(9, 9) == []


def test_space_to_depth_changes_the_images_to_blocks_of_pixels_and_nothing_else():
    (expected,) = take_batches(1)
    config = dataclasses.replace(CONFIG, space_to_depth=True)
    batch = next(train_batches(SHAPES.open("train"), config, TARGETS, batch_size=4, seed=3))
    assert batch.images.shape == (4, 32, 32, 12)
    assert padded_shape(batch.images) == padded_shape(expected.images) == (64, 64)
    for y, x, channel in itertools.product(range(2), range(2), range(3)):
        pixels = expected.images[:, y::2, x::2, channel]
        np.testing.assert_array_equal(batch.images[..., 6 * y + 3 * x + channel], pixels)
    assert_equal(batch._replace(images=expected.images), expected)
    a, b = (unpack_masks(batch, TargetSpec(ImageMasks(4))) for batch in (batch, expected))
    assert_equal(a._replace(images=b.images), b)


@pytest.mark.parametrize("targets", [TARGETS, TargetSpec(ImageMasks(4)), TargetSpec(BoxCrops(8))])
def test_masks_are_packed_and_unpacked_without_loss(targets):
    source = SHAPES.open("train")
    batch = next(train_batches(source, CONFIG, targets, batch_size=2, seed=0))
    assert batch.masks.dtype == np.uint8
    unpacked = unpack_masks(batch, targets)
    for slot, index in enumerate(
        Order(np.zeros(10, int), seed=0, batch_size=2).batch(0).indices.tolist()
    ):
        rng = np.random.default_rng([1, 0, 0, index])
        expected = train_sample(source, index, rng, config=CONFIG, bucket=(64, 64), targets=targets)
        np.testing.assert_array_equal(unpacked.masks[slot], expected.masks)
    assert unpack_masks(unpacked, targets) is unpacked


def test_a_batch_larger_than_the_dataset():
    assert take_batches(1, batch_size=24)[0].images.shape == (24, 64, 64, 3)


def test_the_error_of_an_unreadable_image_names_its_file(tmp_path):
    write_coco(SHAPES.open("val"), tmp_path, "train")
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"broken")
    source = CocoFolder(str(tmp_path)).open("train")
    with pytest.raises(ValueError, match=r"train_0000000\d.png cannot be decoded"):
        next(train_batches(source, CONFIG, TARGETS, batch_size=2, seed=0))


def test_eval_batches_have_every_image_once_and_mark_the_padding():
    batches = list(eval_batches(SHAPES.open("val"), CONFIG, batch_size=3))
    ids = np.concatenate([b.image_id[b.valid] for b in batches])
    assert ids.tolist() == [1, 2, 3, 4, 5]
    assert batches[-1].valid.tolist() == [True, True, False]
    assert batches[0].images.shape == batches[1].images.shape


def test_a_program_ends_with_batches_left_open():
    """The generator is a global, as in a notebook or in the README's loop."""
    code = (
        "from jaxseg.data import DataConfig, Shapes, eval_batches\n"
        "config = DataConfig(Shapes(size=64), buckets=((64, 64),))\n"
        "batches = eval_batches(config.source.open('train'), config, batch_size=2)\n"
        "next(batches)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_threads_that_hang_do_not_keep_a_program_that_stops(monkeypatch, caplog):
    hang = threading.Event()
    monkeypatch.setattr(pipeline, "CLOSE_SECONDS", 0.05)
    pipeline._close(SimpleNamespace(close=hang.wait))
    assert "data threads or workers take long to stop" in caplog.text
    hang.set()


def test_the_end_of_a_program_waits_for_workers_that_are_still_stopping(monkeypatch):
    """Grain would stop them a second time at the same time, with a traceback."""
    stopped = threading.Event()
    monkeypatch.setattr(pipeline, "CLOSE_SECONDS", 0.01)
    pipeline._close(SimpleNamespace(close=lambda: (time.sleep(0.3), stopped.set())))
    assert not stopped.is_set()
    pipeline._close_all()
    assert stopped.is_set()
