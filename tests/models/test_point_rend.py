"""The heads of PointRend without a backbone, on features that are made up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg import ops
from jaxseg.heads.roi_sampling import RoIs
from jaxseg.models import point_rend as module
from jaxseg.models.point_rend import PointHeadConfig, PointRend
from tests.tiny import make_batch, tiny_point_rend_config

CONFIG = tiny_point_rend_config()
MODEL = CONFIG.build()
NET = PointRend(CONFIG)
SLOTS = 5


@pytest.fixture(scope="module")
def variables():
    """Parameters with which no mask is certain."""
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), (1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), shapes)


def made_up(bucket=(64, 64), slots=6):
    """A batch, P2, and positive RoIs near the objects' boxes, in slots with unused ones."""
    batch = make_batch([(64, 64), (40, 52)], [4, 2], bucket, slots, targets=MODEL.targets)
    rng = np.random.default_rng(1)
    features = np.zeros((2, bucket[0] // 4, bucket[1] // 4, CONFIG.fpn_channels), np.float32)
    for i, (height, width) in enumerate(batch.image_size):
        cells = -(-height // 4), -(-width // 4)
        features[i, : cells[0], : cells[1]] = rng.normal(size=(*cells, CONFIG.fpn_channels))
    counts = np.asarray([4, 2])
    gt_index = np.minimum(np.arange(SLOTS)[None], counts[:, None] - 1).astype(np.int32)
    positive = np.arange(SLOTS)[None] < counts[:, None]
    boxes = np.take_along_axis(batch.boxes, gt_index[..., None], 1)
    boxes = (boxes + rng.normal(0, 2, boxes.shape)).astype(np.float32)
    rois = RoIs(np.where(positive[..., None], boxes, 0), positive, positive, gt_index)
    return jax.tree.map(jnp.asarray, (batch, features, rois))


@pytest.fixture(scope="module")
def losses(variables):
    def run(params, batch, features, rois, keys):
        numbers = module.random_points(CONFIG.point, keys, SLOTS)
        return nn.apply(module.mask_losses, NET)(
            {"params": params}, features, rois, batch, *numbers
        )

    compiled = jax.jit(run)

    def call(batch, features, rois):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), batch.index)
        terms = compiled(variables["params"], batch, features, rois, keys)
        return {name: (float(t.total), float(t.count)) for name, t in terms.items()}

    return call


def test_padding_and_objects_in_another_order_change_no_loss(losses):
    batch, features, rois = made_up()
    few = losses(batch, features, rois)
    assert few["mask"][1] == few["point"][1] == 6
    assert few["mask"][0] > 0
    assert few["point"][0] > 0
    many = losses(*made_up(bucket=(96, 128), slots=9))
    order = np.asarray([5, 3, 0, 2, 1, 4])
    shuffled = batch._replace(
        **{k: getattr(batch, k)[:, order] for k in ("boxes", "labels", "masks")}
    )
    moved = rois._replace(gt_index=jnp.asarray(np.argsort(order))[rois.gt_index])
    for other in (many, losses(shuffled, features, moved)):
        for name, value in few.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-5)


def test_losses_add_up_over_images(losses):
    """The draws of an image depend on its index alone, and so do those of each device."""
    batch, features, rois = made_up()
    both = losses(batch, features, rois)
    total = {name: np.zeros(2) for name in both}
    for i in range(2):
        twice = jax.tree.map(lambda x, i=i: jnp.stack([x[i], x[i]]), (batch, features, rois))
        for name, value in losses(*twice).items():
            total[name] += np.asarray(value) / 2
    for name, value in both.items():
        np.testing.assert_allclose(total[name], value, rtol=1e-5)


def test_crops_and_whole_masks_give_nearly_the_same_targets():
    """Of a rectangle in its own box: only points within a pixel of its border may differ."""
    batch, _, rois = made_up()
    points = jnp.asarray(np.random.default_rng(2).random((2, SLOTS, 40, 2)), jnp.float32)
    boxes = jnp.round(batch.boxes)
    crops = batch._replace(boxes=boxes, masks=jnp.ones(batch.masks.shape, bool))
    y, x = (np.arange(64)[:, None] + 0.5, np.arange(64)[None] + 0.5)
    x1, y1, x2, y2 = np.asarray(boxes)[..., None, None].transpose(2, 0, 1, 3, 4)
    whole = batch._replace(masks=jnp.asarray((x > x1) & (x < x2) & (y > y1) & (y < y2)))
    soft = module.point_targets("binary", rois, whole, points)
    cropped = module.point_targets("box_crop", rois, crops, points)
    np.testing.assert_allclose(cropped, np.round(cropped), atol=1e-5)  # inside or outside
    in_image = np.asarray(jax.vmap(ops.points_in_image)(rois.boxes, points)).reshape(-1, 40, 2)
    corners = np.take_along_axis(np.asarray(boxes), np.asarray(rois.gt_index)[..., None], 1)
    corners = corners.reshape(-1, 1, 4)
    near = np.abs(np.concatenate([in_image, in_image], -1) - corners).min(-1) < 0.5 + 1e-3
    used = np.asarray(rois.positive).reshape(-1)
    difference = np.abs(np.asarray(soft) - np.asarray(cropped))
    assert difference[used][~near[used]].max() < 1e-4
    assert difference[used].max() <= 0.75 + 1e-4  # at a corner


@pytest.mark.parametrize(
    ("config", "refined"),
    [
        (PointHeadConfig(), [28, 56, 112, 224]),
        (PointHeadConfig(subdivision_steps=4, subdivision_num_points=100), [14, 28, 56, 112]),
        (PointHeadConfig(subdivision_steps=1), [14]),
        (PointHeadConfig(subdivision_steps=3, subdivision_num_points=10**6), [56]),
    ],
)
def test_steps_that_would_predict_all_points_of_the_next_are_skipped(config, refined):
    sides = [7 << step for step in range(1, config.subdivision_steps + 1)]
    assert [s for n, s in enumerate(sides, 1) if config.is_refined(n, s)] == refined


def test_refined_masks_are_predicted_at_uncertain_points_and_doubled_elsewhere(variables):
    _, features, rois = made_up()
    config = dataclasses.replace(CONFIG.point, subdivision_steps=2, subdivision_num_points=20)
    net = PointRend(dataclasses.replace(CONFIG, point=config))
    labels = jnp.asarray([[0, 1, 2, 0, 1], [2, 1, 0, 0, 0]], jnp.int32)

    def run(net, features, boxes):
        coarse = net.coarse_masks(features, boxes)
        refined = module.refine_masks(net.point_head, features, boxes, labels, coarse)
        grid = jnp.broadcast_to(ops.grid_points((12, 12)), (*boxes.shape[:2], 144, 2))
        fine = module.fine_features(features, boxes, grid).reshape(-1, 144, CONFIG.fpn_channels)
        at_grid = jax.vmap(ops.point_sample)(coarse, grid.reshape(-1, 144, 2))
        everywhere = net.point_head(fine, at_grid, labels.reshape(-1))
        return coarse, refined, everywhere.reshape(refined.shape)

    run = jax.jit(nn.apply(run, net))
    coarse, refined, everywhere = map(np.asarray, run(variables, features, rois.boxes))
    assert coarse.shape == (10, 3, 3, 3)
    assert refined.shape == (10, 12, 12)
    predicted = np.isclose(refined, everywhere, atol=1e-5).sum((1, 2))
    assert (predicted >= 20).all()
    assert (predicted < 144).any()


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (CONFIG.coarse, {"pooler_resolution": 7}, "coarse: pooler_resolution 7 must be even"),
        (
            CONFIG.point,
            {"importance_sample_ratio": 1.5},
            "importance_sample_ratio 1.5 must be from 0 to 1",
        ),
        (CONFIG.point, {"oversample_ratio": 0}, "oversample_ratio 0 at least 1"),
    ],
)
def test_settings_that_no_head_can_have_are_refused(config, fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **fields)
