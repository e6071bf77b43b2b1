import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import ops
from jaxseg.ops.bilinear import paste_span, paste_weights
from tests import strategies
from tests.goldens import load_golden
from tests.oracles.masks import crop_target, tight_box
from tests.oracles.masks import paste as slow_paste
from tests.oracles.masks import paste_integer as slow_paste_integer
from tests.oracles.roi_align import roi_align as slow_roi_align

mask_targets = jax.jit(ops.mask_targets, static_argnames="size")
boxes_from_masks = jax.jit(ops.boxes_from_masks, static_argnames="stride")
bitmap_targets = jax.jit(ops.bitmap_targets, static_argnames=("size", "aligned"))


def test_integer_paste_is_that_of_torchvision(shared):
    meta, golden = load_golden(shared, "paste_masks")
    for masks, out in (("masks", "out"), ("masks14", "out14")):
        pasted = ops.paste_masks(
            jnp.asarray(golden[masks][:, 0]), jnp.asarray(golden["boxes"]), tuple(meta["image"])
        )
        np.testing.assert_allclose(pasted, golden[out][:, 0], atol=1e-5)


def test_grid_sample_paste_is_that_of_mmdetection(shared):
    _, golden = load_golden(shared, "mm_ops")
    expected = golden["paste__out"]
    masks = golden["paste__masks"].reshape(-1, *golden["paste__masks"].shape[-2:])
    pasted = ops.paste_masks(
        jnp.asarray(masks),
        jnp.asarray(golden["paste__boxes"]),
        expected.shape[-2:],
        paste="grid_sample",
    )
    np.testing.assert_allclose(pasted, expected.reshape(pasted.shape), atol=1e-5)


IMAGE = (9, 11)


@jax.jit
def paste_in_both_modes(masks, boxes):
    return (
        ops.paste_masks(masks, boxes, IMAGE),
        ops.paste_masks(masks, boxes, IMAGE, paste="grid_sample"),
    )


@settings(max_examples=30, deadline=None)
@given(
    masks=strategies.quarters((3, 4, 4), 0, 1),
    boxes=strategies.boxes(3, largest=12, low=-6, high=14),
)
def test_paste_agrees_with_the_loops(masks, boxes):
    """A mask of 4 cells grows boxes by 6 / 4, so that quarters of a pixel round nowhere."""
    integer, grid_sample = paste_in_both_modes(masks, boxes)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        np.testing.assert_allclose(integer[i], slow_paste_integer(mask, box, IMAGE), atol=1e-5)
        np.testing.assert_allclose(grid_sample[i], slow_paste(mask, box, IMAGE), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(boxes=strategies.boxes(3, smallest=2, largest=6, low=2, high=5))
def test_a_full_mask_covers_its_box_and_is_zero_far_from_it(boxes):
    """Pixels in the box get at least a quarter, at its corners; those a cell further out get 0."""
    integer, grid_sample = map(
        np.asarray, paste_in_both_modes(np.ones((3, 4, 4), np.float32), boxes)
    )
    y, x = np.mgrid[: IMAGE[0], : IMAGE[1]] + 0.5
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        width, height = (x2 - x1) / 4, (y2 - y1) / 4
        near = (x > x1 - width) & (x < x2 + width) & (y > y1 - height) & (y < y2 + height)
        deep = (x > x1 + width) & (x < x2 - width) & (y > y1 + height) & (y < y2 - height)
        assert (grid_sample[i][inside] >= 0.25 - 1e-5).all()
        np.testing.assert_allclose(grid_sample[i][deep], 1, atol=1e-5)
        assert not grid_sample[i][~near].any()
        whole = (x - 0.5 >= x1) & (x + 0.5 <= x2) & (y - 0.5 >= y1) & (y + 0.5 <= y2)
        assert (integer[i][whole] >= 0.25).all()
        # Whole pixels reach up to one further.
        far = (x < x1 - width - 1) | (x > x2 + width + 1)
        far |= (y < y1 - height - 1) | (y > y2 + height + 1)
        assert not integer[i][far].any()


def test_paste_of_boxes_outside_or_empty_is_zero():
    boxes = jnp.asarray([[-50.0, -50, -20, -20], [90, 90, 120, 120], [5, 5, 5, 5]])
    for paste in ("integer", "grid_sample"):
        pasted = ops.paste_masks(jnp.ones((3, 8, 8)), boxes, (40, 40), paste=paste)
        assert not np.asarray(pasted)[:2].any()
        assert np.isfinite(pasted).all()


def test_another_paste_is_an_error():
    with pytest.raises(ValueError, match="'grid_sample' or 'integer', not 'box'"):
        inspect.unwrap(paste_span)(jnp.zeros(1), jnp.ones(1), 4, "box")  # without type checks


@settings(max_examples=30, deadline=None)
@given(boxes=strategies.boxes(3, largest=12, low=-6, high=14))
def test_paste_weights_of_numpy_and_jax_arrays_are_equal(boxes):
    pixels = np.arange(9, dtype=np.float32)
    for paste in ("integer", "grid_sample"):
        on_host = paste_weights(boxes[:, 0], boxes[:, 2], 4, pixels, paste)
        assert isinstance(on_host, np.ndarray)
        start, end = jnp.asarray(boxes[:, 0]), jnp.asarray(boxes[:, 2])
        on_device = paste_weights(start, end, 4, jnp.asarray(pixels), paste)
        np.testing.assert_allclose(on_device, on_host, atol=1e-6)


@pytest.mark.parametrize("start", [2.5, 3.0, -1.0])
def test_a_box_without_length_covers_no_pixel(start):
    """Also where a pixel's centre is at both of its ends."""
    edge, pixels = np.asarray([start], np.float32), np.arange(6, dtype=np.float32)
    assert not paste_weights(edge, edge, 4, pixels, "grid_sample").any()


@pytest.mark.parametrize("stride", [1, 4])
@settings(max_examples=40, deadline=None)
@given(masks=strategies.flags((3, 4, 5)), empty_rows=strategies.flags((3, 4, 1)))
def test_boxes_from_masks_agree_with_the_loop(stride, masks, empty_rows):
    masks = masks & ~empty_rows
    image_size = (4 * stride - 1, 5 * stride - 1)
    boxes = boxes_from_masks(masks, jnp.asarray(image_size), stride=stride)
    expected = [tight_box(mask, image_size, stride) for mask in masks]
    np.testing.assert_array_equal(boxes, expected)


def test_targets_are_the_roi_align_of_the_image_mask():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 20, 30)) < 0.5
    rois = np.asarray([[2, 3, 17, 12], [0, 0, 30, 20], [10.5, 4.25, 28, 19]], np.float32)
    gt_index = np.asarray([1, 2, 0], np.int32)
    frames = np.tile(np.asarray([0, 0, 30, 20], np.float32), (3, 1))
    targets = ops.mask_targets(*map(jnp.asarray, (masks, frames, rois, gt_index)), size=7)
    for target, roi, index in zip(targets, rois, gt_index, strict=True):
        slow = slow_roi_align(
            masks[index][..., None].astype(float), roi[None], (7, 7), 1.0, 2, aligned=True
        )
        np.testing.assert_allclose(target, slow[0, ..., 0], atol=1e-5)


def test_targets_of_a_box_frame_are_zero_outside_the_box():
    masks = jnp.ones((1, 16, 16), bool)
    frames = jnp.asarray([[10.0, 10.0, 20.0, 20.0]])
    rois = jnp.asarray([[0.0, 10.0, 20.0, 20.0], [10.0, 10.0, 20.0, 20.0]])
    targets = ops.mask_targets(masks, frames, rois, jnp.zeros(2, jnp.int32), size=8)
    np.testing.assert_allclose(targets[0], np.repeat([[0.0, 1.0]], 4, 1).repeat(8, 0))
    np.testing.assert_allclose(targets[1], 1)


def test_targets_without_object_slots():
    targets = ops.mask_targets(
        jnp.zeros((0, 8, 8)), jnp.zeros((0, 4)), jnp.ones((3, 4)), jnp.zeros(3, jnp.int32), size=4
    )
    np.testing.assert_array_equal(targets, np.zeros((3, 4, 4)))


def test_targets_agree_with_detectron2_and_mmdetection(shared):
    """Two samples per bin instead of their adaptive number flip few of the cells."""
    _, golden = load_golden(shared, "mask_targets")
    masks = golden["gt_masks"].astype(bool)
    frames = np.tile(np.asarray([0, 0, 120, 90], np.float32), (len(masks), 1))
    boxes = golden["boxes"].astype(np.float32)
    targets = ops.mask_targets(
        *map(jnp.asarray, (masks, frames, boxes, golden["matched"].astype(np.int32))), size=28
    )
    for reference in ("d2_bitmap28", "mm_bitmap28"):
        agreement = ((np.asarray(targets) >= 0.5) == golden[reference].astype(bool)).mean()
        assert agreement > 0.997, (reference, agreement)


@pytest.mark.parametrize("size", [14, 28])
def test_soft_bitmap_targets_are_those_of_torchvision(shared, size):
    targets = golden_bitmap_targets(shared, size, aligned=False)
    _, golden = load_golden(shared, "mask_targets")
    np.testing.assert_allclose(targets, golden[f"tv_project{size}"], atol=1e-5)


@pytest.mark.parametrize("reference", ["d2_bitmap28", "mm_bitmap28"])
def test_bitmap_targets_are_those_of_detectron2_and_mmdetection(shared, reference):
    targets = golden_bitmap_targets(shared, 28, aligned=True)
    _, golden = load_golden(shared, "mask_targets")
    np.testing.assert_array_equal(targets >= 0.5, golden[reference].astype(bool))


def golden_bitmap_targets(shared, size, aligned):
    _, golden = load_golden(shared, "mask_targets")
    return np.asarray(
        ops.bitmap_targets(
            jnp.asarray(golden["gt_masks"]),
            jnp.asarray(golden["boxes"]),
            jnp.asarray(golden["matched"].astype(np.int32)),
            (90, 120),
            size=size,
            aligned=aligned,
        )
    )


@settings(max_examples=30, deadline=None)
@given(
    masks=strategies.flags((2, 4, 5)),
    frames=strategies.boxes(2, smallest=0, largest=16, low=-4, high=8),
    rois=strategies.boxes(4, smallest=0, largest=16, low=-4, high=8),
    gt_index=strategies.integers(4, 0, 1),
)
def test_targets_from_crops_agree_with_the_loop(masks, frames, rois, gt_index):
    # Off the frame's border, where the value jumps.
    rois = rois + np.float32(2**-8)
    targets = mask_targets(masks, frames, rois, gt_index, size=4)
    for target, roi, i in zip(targets, rois, gt_index, strict=True):
        np.testing.assert_allclose(target, crop_target(masks[i], frames[i], roi, 4), atol=1e-4)
    assert ((np.asarray(targets) >= 0) & (np.asarray(targets) <= 1 + 1e-6)).all()


@pytest.mark.parametrize("aligned", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    masks=strategies.flags((2, 8, 9)),
    rois=strategies.boxes(3, smallest=0, largest=12, low=-4, high=8),
    gt_index=strategies.integers(3, 0, 1),
)
def test_targets_from_bitmaps_agree_with_the_loop(aligned, masks, rois, gt_index):
    rois = rois + np.float32(2**-8)
    size = jnp.asarray(masks.shape[1:])
    targets = bitmap_targets(masks, rois, gt_index, size, size=4, aligned=aligned)
    padded = bitmap_targets(
        np.pad(masks, ((0, 0), (0, 3), (0, 2))), rois, gt_index, size, size=4, aligned=aligned
    )
    np.testing.assert_allclose(padded, targets, atol=1e-5)
    for target, roi, i in zip(targets, rois, gt_index, strict=True):
        expected = slow_roi_align(masks[i][..., None], roi[None], (4, 4), 1.0, 0, aligned)
        np.testing.assert_allclose(target, expected[0, ..., 0], atol=1e-4)
