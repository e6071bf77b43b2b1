"""Semantic maps: resized without new classes, cut, mirrored and pasted as the masks are."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxseg.data import (
    Augmentation,
    CopyPaste,
    DataConfig,
    RandomSizeCrop,
    ScaleJitter,
    Shapes,
    TrainPipeline,
)
from jaxseg.data.transforms.sample import train_sample
from jaxseg.data.transforms.semantic import view_semantic
from jaxseg.data.transforms.view import View
from jaxseg.types import IGNORED, ImageMasks, TargetSpec
from tests.data.scenes import Examples, blobs, scene

BUCKET = (48, 64)
PIXELS = TargetSpec(ImageMasks(1), semantic_stride=1)
STUFF = 50


def panoptic_scene(seed):
    """Return a scene whose objects do not overlap, with the map that belongs to it."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 90, 2).tolist()
    bitmaps, free = [], np.ones((height, width), bool)
    for bitmap in blobs(rng, height, width, 4):
        bitmaps.append(bitmap & free)
        free &= ~bitmap
    semantic = np.where(rng.random((height, width)) < 0.5, STUFF, STUFF + 1).astype(np.uint8)
    semantic[rng.random((height, width)) < 0.1] = IGNORED
    for label, bitmap in enumerate(bitmaps):
        semantic[bitmap] = label
    return scene(bitmaps, seed=seed)._replace(semantic=semantic)


@pytest.mark.parametrize("backend", ["cv2", "pillow", "torch"])
@pytest.mark.parametrize("paste", [0.0, 1.0])
def test_map_and_masks_agree_after_every_augmentation(backend, paste):
    source = Examples(*(panoptic_scene(seed) for seed in range(6)))
    config = DataConfig(
        Shapes(),
        (BUCKET,),
        min_size=40,
        max_size=64,
        resize_backend=backend,
        augmentation=Augmentation(
            lsj=ScaleJitter(0.3, 2.0),
            crop=RandomSizeCrop(0.5, (40,), 20, 40),
            copy_paste=CopyPaste(paste, min_visible_fraction=0.0),
        ),
    )
    pixels = 0
    for seed in range(40):
        arguments = {"config": config, "bucket": BUCKET}
        index = seed % len(source)
        sample = train_sample(
            source, index, np.random.default_rng(seed), targets=PIXELS, **arguments
        )
        for label in np.unique(sample.labels[sample.valid]):
            of_label = sample.valid & (sample.labels == label)
            mask = sample.masks[of_label].any(0)
            np.testing.assert_array_equal(sample.semantic == label, mask)
            pixels += int(mask.sum())
        height, width = sample.image_size
        assert (sample.semantic[height:] == IGNORED).all()
        assert (sample.semantic[:, width:] == IGNORED).all()
        assert set(np.unique(sample.semantic)) <= {*range(4), STUFF, STUFF + 1, IGNORED}
        coarse = train_sample(
            source,
            index,
            np.random.default_rng(seed),
            targets=TargetSpec(semantic_stride=4),
            **arguments,
        )
        np.testing.assert_array_equal(coarse.semantic, sample.semantic[2::4, 2::4])
    assert pixels > 5000


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [(31, 64), (48, 50), (13, 17)])
def test_a_map_is_resized_as_opencv_and_pillow_do(size, flipped):
    semantic = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    part = semantic[3:33, 5:50]
    part = part[:, ::-1] if flipped else part
    expected = {
        "cv2": cv2.resize(part, size[::-1], interpolation=cv2.INTER_NEAREST),
        "pillow": np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.NEAREST)),
    }
    for backend, resized in expected.items():
        view = View((37, 53), (3, 5, 33, 50), flipped, size, backend)
        found = view_semantic(semantic, view, BUCKET, 1)
        np.testing.assert_array_equal(found[: size[0], : size[1]], resized)
        assert (found[size[0] :] == IGNORED).all()
        assert (found[:, size[1] :] == IGNORED).all()


def test_a_map_enlarged_from_its_cells_is_in_its_place():
    """The edge of a class moves by a pixel at most, to the left as often as to the right."""
    shifts = []
    for edge in range(8, 24):
        semantic = np.zeros((32, 32), np.uint8)
        semantic[:, edge:] = 1
        view = View((32, 32), (0, 0, 32, 32), False, (32, 32), "cv2")
        cells = view_semantic(semantic, view, (32, 32), 4)
        enlarged = cv2.resize(cells.astype(np.float32), (32, 32)) > 0.5
        shifts.append(int(np.argmax(enlarged[0])) - edge)
    assert max(shifts) - min(shifts) <= 3
    assert abs(np.mean(shifts)) <= 0.5


def test_a_map_differs_from_that_of_mmdetection_in_the_pixel_of_a_cell_alone(shared):
    """Compare the target of Panoptic FPN's semantic head: stuff first, things as one class."""
    arrays = np.load(shared / "goldens" / "models" / "panoptic_fpn.npz")
    bucket = tuple(json.loads(str(arrays["meta"]))["batch"])
    for image, target in enumerate(arrays["train__seg_target"]):
        semantic = arrays[f"gt_sem{image}"]
        view = View(semantic.shape, (0, 0, *semantic.shape), False, semantic.shape, "cv2")
        labels = view_semantic(semantic, view, bucket, 1)[::4, ::4].astype(int)
        channels = np.where(labels < 5, 4, labels - 5)
        np.testing.assert_array_equal(np.where(labels == IGNORED, IGNORED, channels), target)


def test_a_source_without_maps_is_refused():
    source, targets = Shapes(train_images=2).open("train"), TargetSpec(semantic_stride=4)
    config = DataConfig(Shapes(), ((128, 128),))
    with pytest.raises(ValueError, match="semantic maps, which the data does not have: give"):
        TrainPipeline(source, config, targets, batch_size=1, seed=0)
    with pytest.raises(ValueError, match="image id 1 has no semantic map, which the model learns"):
        train_sample(
            source, 0, np.random.default_rng(0), config=config, bucket=(128, 128), targets=targets
        )
