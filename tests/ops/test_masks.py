import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from tests.goldens import load_golden
from tests.oracles.masks import paste
from tests.oracles.roi_align import roi_align as slow_roi_align


def test_paste_golden_integer_boxes(shared):
    meta, golden = load_golden(shared, "paste_masks")
    for masks, out in (("masks", "out"), ("masks14", "out14")):
        pasted = ops.paste_masks(
            jnp.asarray(golden[masks][:, 0]), jnp.asarray(golden["boxes"]), tuple(meta["image"])
        )
        np.testing.assert_allclose(pasted, golden[out][:, 0], atol=1e-5)


def test_paste_golden_continuous_boxes(shared):
    _, golden = load_golden(shared, "mm_ops")
    expected = golden["paste__out"]
    masks = golden["paste__masks"].reshape(-1, *golden["paste__masks"].shape[-2:])
    pasted = ops.paste_masks(
        jnp.asarray(masks),
        jnp.asarray(golden["paste__boxes"]),
        expected.shape[-2:],
        integer_boxes=False,
    )
    np.testing.assert_allclose(pasted, expected.reshape(pasted.shape), atol=1e-5)


def test_paste_agrees_with_the_loop():
    masks = np.random.default_rng(0).random((3, 6, 6)).astype(np.float32)
    boxes = np.asarray([[2, 3, 11, 9], [-3, -2, 5.5, 20], [4.2, 4.7, 4.9, 5.1]], np.float32)
    pasted = ops.paste_masks(jnp.asarray(masks), jnp.asarray(boxes), (12, 14), integer_boxes=False)
    for mask, box, actual in zip(masks, boxes, pasted, strict=True):
        np.testing.assert_allclose(actual, paste(mask, box, (12, 14)), atol=1e-5)


def test_paste_of_boxes_outside_or_empty_is_zero():
    boxes = jnp.asarray([[-50.0, -50, -20, -20], [90, 90, 120, 120], [5, 5, 5, 5]])
    for integer_boxes in (True, False):
        pasted = ops.paste_masks(jnp.ones((3, 8, 8)), boxes, (40, 40), integer_boxes=integer_boxes)
        assert not np.asarray(pasted)[:2].any()
        assert np.isfinite(pasted).all()


def test_targets_are_the_roi_align_of_the_image_mask():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 20, 30)) < 0.5
    rois = np.asarray([[2, 3, 17, 12], [0, 0, 30, 20], [10.5, 4.25, 28, 19]], np.float32)
    gt = np.asarray([1, 2, 0], np.int32)
    frames = np.tile(np.asarray([0, 0, 30, 20], np.float32), (3, 1))
    targets = ops.mask_targets(*map(jnp.asarray, (masks, frames, rois, gt)), size=7)
    for target, roi, index in zip(targets, rois, gt, strict=True):
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


def test_targets_without_any_object_slot():
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
