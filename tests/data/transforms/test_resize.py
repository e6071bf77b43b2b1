import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_api

from jaxseg.data import DataConfig, Shapes, eval_batches, train_batches
from jaxseg.data.transforms.objects import ViewedObject
from jaxseg.data.transforms.rasterize import fill_image_mask
from jaxseg.data.transforms.resize import (
    choose_buckets,
    fit_image,
    nearest_pixels,
    scaled_size,
)
from jaxseg.data.transforms.view import View
from jaxseg.types import BoxCrops, TargetSpec
from tests.goldens import load_golden

TARGETS = TargetSpec(BoxCrops(14))


@pytest.mark.parametrize(
    ("size", "min_max_size", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((300, 900), (800, 1333), (444, 1333)),
        ((900, 300), (800, 1333), (1333, 444)),
        ((480, 640), None, (480, 640)),
        ((4000, 2000), None, (1344, 672)),
        ((1, 5000), None, (1, 1344)),
        ((2, 5), (5, 1000), (5, 13)),  # 12.5 is rounded up, as in MMDetection and Detectron2
    ],
)
def test_scaled_size(size, min_max_size, expected):
    assert scaled_size(size, (1344, 1344), min_max_size) == expected


def test_torchvision_rounds_sizes_down():
    assert scaled_size((480, 640), (1344, 1344), (800, 1333), "torch") == (800, 1066)


def test_fit_image_keeps_small_images_and_shrinks_large_ones():
    padded, size = fit_image(np.full((10, 12, 3), 7, np.uint8), (32, 32), None)
    assert size == (10, 12)
    assert padded.sum() == 10 * 12 * 3 * 7
    assert fit_image(np.zeros((100, 50, 3), np.uint8), (32, 32), None)[1] == (32, 16)


def test_images_and_masks_are_resized_as_in_torchvision(shared):
    meta, golden = load_golden(shared, "transform")
    mean, std = (np.asarray(meta[name], np.float32) * 255 for name in ("mean", "std"))
    for case in meta["cases"]:
        key, min_max_size, bucket = case["key"], (case["min_size"], case["max_size"]), (224, 224)
        for i, (expected_size, original) in enumerate(
            zip(case["image_sizes"], case["original"], strict=True)
        ):
            image = golden[f"{key}__img{i}"]
            padded, size = fit_image(image, bucket, min_max_size, "torch")
            assert list(size) == expected_size
            expected = golden[f"{key}__batch"][i].transpose(1, 2, 0)[: size[0], : size[1]]
            ours = (padded[: size[0], : size[1]] - mean) / std
            np.testing.assert_allclose(ours, expected, atol=2e-5)

            factors = np.asarray([size[1] / original[1], size[0] / original[0]] * 2, np.float32)
            np.testing.assert_allclose(
                golden[f"{key}__boxes{i}"] * factors, golden[f"{key}__rboxes{i}"], rtol=1e-5
            )
            for mask, resized in zip(
                golden[f"{key}__masks{i}"], golden[f"{key}__rmasks{i}"], strict=True
            ):
                view = View(mask.shape, (0, 0, *mask.shape), False, size, "torch")
                rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
                bounds = (0, 0, *mask.shape)
                ours = np.zeros(bucket, bool)
                fill_image_mask(
                    ViewedObject(np.zeros(4), np.zeros(4), 0, rle, bounds, view), ours, 1
                )
                np.testing.assert_array_equal(ours[: size[0], : size[1]], resized.astype(bool))


@pytest.mark.parametrize("backend", ["cv2", "pillow", "torch"])
@settings(deadline=None, max_examples=300)
@given(side=st.integers(1, 1500), resized=st.integers(1, 1500))
def test_nearest_pixels_are_those_of_the_backend(backend, side, resized):
    index = np.arange(side, dtype=np.int32)[None]  # [1, side]
    if backend == "cv2":
        image = index.astype(np.float32)
        expected = cv2.resize(image, (resized, 1), interpolation=cv2.INTER_NEAREST)[0]
    elif backend == "pillow":
        image = Image.fromarray(index)
        expected = np.asarray(image.resize((resized, 1), Image.Resampling.NEAREST))[0]
    else:  # PyTorch's `nearest_neighbor_compute_source_index`, in float32
        scale = np.float32(side) / np.float32(resized)
        expected = [min(math.floor(np.float32(i) * scale), side - 1) for i in range(resized)]
    chosen = nearest_pixels(np.arange(resized), resized, side, backend)
    np.testing.assert_array_equal(chosen, expected)


def test_backends_take_different_pixels():
    cv2_pixels, pillow_pixels, torch_pixels = (
        nearest_pixels(np.arange(34), 34, 6, backend).tolist()
        for backend in ("cv2", "pillow", "torch")
    )
    assert cv2_pixels != torch_pixels != pillow_pixels != cv2_pixels


def test_pillow_averages_when_shrinking():
    """Every fourth column is white; of four columns, OpenCV reads only the two in the middle."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, ::4] = 255
    averaged, size = fit_image(image, (32, 32), (16, 32), "pillow")
    sampled, _ = fit_image(image, (32, 32), (16, 32), "cv2")
    assert size == (16, 24)
    assert not sampled.any()
    np.testing.assert_allclose(averaged[:16, 2:22], 255 / 4, atol=4)


@pytest.mark.parametrize(("resize_backend", "dtype"), [("torch", np.float32), ("pillow", np.uint8)])
def test_batches_have_the_dtype_and_size_of_the_resize_backend(resize_backend, dtype):
    source = Shapes(size=40, train_images=2, val_images=2)
    config = DataConfig(source, ((64, 64),), 48, 64, resize_backend=resize_backend)
    streams = (
        eval_batches(source.open("val"), config, batch_size=2),
        train_batches(source.open("train"), config, TARGETS, batch_size=2, seed=0),
    )
    for stream in streams:
        batch = next(stream)
        stream.close()  # Hypothesis refuses threads that use `random` during the next test
        assert batch.images.dtype == dtype
        assert batch.image_size.tolist() == [[48, 48]] * 2


@settings(deadline=None, max_examples=300)
@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6),
    st.one_of(st.none(), st.tuples(st.integers(1, 1500), st.integers(0, 1000))),
)
def test_the_chosen_bucket_is_the_smallest_that_keeps_the_image_largest(size, cells, sides):
    """Sizes may differ by the pixel that they are rounded to and by a thousandth."""
    buckets = [(h * 32, w * 32) for h, w in cells]
    min_max_size = None if sides is None else (sides[0], sides[0] + sides[1])
    (chosen,) = choose_buckets(np.asarray([size]), buckets, min_max_size).tolist()
    sizes = np.asarray([scaled_size(size, bucket, min_max_size) for bucket in buckets])
    assert (sizes[chosen] + 1 >= sizes * 0.999).all()
    as_large = (sizes >= sizes[chosen]).all(1)
    area = np.prod(buckets, axis=1)
    assert area[chosen] <= area[as_large].min()
