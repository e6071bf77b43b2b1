"""Synthetic scenes, and their COCO files."""

import dataclasses

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data import CocoFolder, Shapes, write_coco
from jaxseg.data.panoptic import PanopticSource, thing_categories
from jaxseg.data.shapes import SHAPES as THINGS
from jaxseg.data.shapes import STUFF

SHAPES = Shapes(size=64, train_images=10, val_images=5)


def test_shapes_are_deterministic_and_their_masks_are_the_visible_pixels():
    train, val = SHAPES.open("train"), SHAPES.open("val")
    assert (train[3].image == SHAPES.open("train")[3].image).all()
    assert (train[0].image != val[0].image).any()
    for index in range(10):
        scene = train[index]
        masks = [mask_api.decode(rle).astype(int) for rle in scene.rles]
        if masks:
            assert np.sum(masks, axis=0).max() == 1  # no pixel belongs to two shapes
        for box, mask in zip(scene.boxes.astype(int), masks, strict=True):
            x1, y1, x2, y2 = box
            assert mask[y1:y2, x1:x2].sum() == mask.sum() >= 20
            assert mask[y1].any()
            assert mask[y2 - 1].any()
            assert mask[:, x1].any()
            assert mask[:, x2 - 1].any()


def test_some_scenes_are_empty():
    source = Shapes(size=32).open("train")
    fraction = np.mean([len(source[i].boxes) == 0 for i in range(300)])
    assert 0.01 < fraction < 0.3


def test_an_unknown_split_of_shapes_raises():
    with pytest.raises(ValueError, match="splits train and val, not 'test'"):
        SHAPES.open("test")


def test_shapes_written_as_coco_read_back_the_same(tmp_path):
    source = SHAPES.open("val")
    write_coco(source, tmp_path, "val")
    reopened = CocoFolder(str(tmp_path)).open("val")
    assert reopened.categories == source.categories
    for index in range(len(source)):
        a, b = source[index], reopened[index]
        assert a.image_id == b.image_id
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert list(a.rles) == list(b.rles)
    bgr = cv2.imread(str(tmp_path / "images" / "val_00000001.png"))
    np.testing.assert_array_equal(bgr[..., ::-1], source[0].image)


def test_stuff_leaves_the_shapes_as_they_are():
    plain, source = (dataclasses.replace(SHAPES, stuff=s).open("train") for s in (False, True))
    assert isinstance(source, PanopticSource)
    assert not isinstance(plain, PanopticSource)
    assert [c.name for c in source.categories] == [*THINGS, *STUFF]
    assert thing_categories(source) == plain.categories
    assert source.ground_truth() == plain.ground_truth()
    assert source.fingerprint != plain.fingerprint == "33fbb891d561b61b"
    for index in range(len(source)):
        example, without = source[index], plain[index]
        assert list(example.rles) == list(without.rles)
        changed = (example.image != without.image).any(-1)
        for rle in example.rles:  # the outermost pixels show the background, too
            assert not changed[cv2.erode(mask_api.decode(rle), np.ones((3, 3))) > 0].any()
        for label in range(len(THINGS), len(source.categories)):
            share = changed[example.semantic == label].mean() if label in example.semantic else None
            assert share is None or (share < 0.05 if label == len(THINGS) else share > 0.1)


def test_panoptic_maps_of_scenes_have_every_pixel_in_one_segment():
    source = dataclasses.replace(SHAPES, stuff=True).open("val")
    stuff_classes = set()
    for index in range(len(source)):
        example, panoptic = source[index], source.panoptic_map(index)
        assert panoptic.ids.dtype == np.int32
        assert set(np.unique(panoptic.ids)) == {segment.id for segment in panoptic.segments}
        of_id = {segment.id: segment.label for segment in panoptic.segments}
        np.testing.assert_array_equal(np.vectorize(of_id.get)(panoptic.ids), example.semantic)
        things = [s for s in panoptic.segments if s.label < source.num_things]
        assert [s.label for s in things] == example.labels.tolist()
        for segment, rle in zip(things, example.rles, strict=True):
            np.testing.assert_array_equal(panoptic.ids == segment.id, mask_api.decode(rle) > 0)
        stuff = {s.label for s in panoptic.segments} - set(range(source.num_things))
        assert 2 <= len(stuff) <= len(STUFF)
        stuff_classes |= stuff
    assert len(stuff_classes) == len(STUFF)
