import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.solov2 import (
    make_targets,
    mask_logits,
    select_instances,
    solo_losses,
)
from jaxseg.nn.resize import coord_grid, resize, upsample2x
from jaxseg.types import ImageMasks, TargetSpec
from jaxseg.zoo import solov2 as published
from tests.goldens import load_golden
from tests.oracles.solo import slow_grid_targets, slow_select_instances
from tests.tiny import make_batch, tiny_solov2_config

TARGETS = TargetSpec(ImageMasks(4), centers=True)


def count_parameters(config):
    variables = jax.eval_shape(lambda: config.build().init(jax.random.key(0), (1, 64, 64, 3)))
    leaves = jax.tree.leaves([variables["params"], variables.get("frozen", {})])
    return sum(leaf.size for leaf in leaves)


def test_light_model_has_as_many_parameters_as_in_mmdetection():
    config = dataclasses.replace(published.MMDET_SOLOV2_LIGHT_R50, num_classes=1)
    assert count_parameters(config) == 31_158_465


@pytest.mark.parametrize(
    "config", [published.MMDET_SOLOV2_LIGHT_R18, published.MMDET_SOLOV2_LIGHT_R34]
)
def test_other_depths_build(config):
    assert count_parameters(config) > 10_000_000


def test_each_level_needs_its_settings():
    with pytest.raises(ValueError, match="one value for each of P2 to P6"):
        dataclasses.replace(tiny_solov2_config(), num_grids=(8, 6, 4)).build()


def test_coordinates_are_those_of_mmdetection(shared):
    _, golden = load_golden(shared, "solo_ops")
    for case in range(3):
        expected = golden[f"coord{case}"].transpose(0, 2, 3, 1)
        count, height, width, _ = expected.shape
        extent = jnp.tile(jnp.asarray([[height, width]]), (count, 1))
        np.testing.assert_allclose(coord_grid(extent, height, width), expected, atol=1e-6)


def test_a_map_in_a_larger_pad_is_resized_as_if_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 4, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 5), (0, 2), (0, 0)))
    extent, new = jnp.asarray([[3, 4]]), jnp.asarray([[5, 3]])
    alone = resize(jnp.asarray(x), extent, new, (5, 3))
    inside = resize(jnp.asarray(padded), extent, new, (9, 7))
    np.testing.assert_allclose(inside[:, :5, :3], alone, atol=1e-6)
    assert not np.asarray(inside[:, 5:]).any()
    assert not np.asarray(inside[:, :, 3:]).any()

    expected = resize(jnp.asarray(padded), extent, 2 * extent, (16, 12))
    np.testing.assert_allclose(upsample2x(jnp.asarray(padded), extent), expected, atol=1e-6)


def test_resize_is_torchs_interpolation():
    """By hand: `align_corners=False`, two cells to four."""
    x = jnp.asarray([[[[0.0], [8.0]]]])
    extent = jnp.asarray([[1, 2]])
    wider = resize(x, extent, jnp.asarray([[1, 4]]), (1, 4))
    np.testing.assert_allclose(wider[0, 0, :, 0], [0, 2, 6, 8])


def test_dynamic_convolution_is_that_of_mmdetection(shared):
    _, golden = load_golden(shared, "solo_ops")
    feature = golden["dyn__mask_feat"][0].transpose(1, 2, 0)
    logits = mask_logits(jnp.asarray(feature), jnp.asarray(golden["dyn__kernels"]))
    np.testing.assert_allclose(logits, golden["dyn__logits"], rtol=1e-5, atol=1e-5)


def test_dynamic_convolution_of_3x3_agrees_with_the_loop():
    rng = np.random.default_rng(0)
    feature, kernels = rng.normal(size=(4, 5, 3)), rng.normal(size=(2, 3, 3, 3))
    padded = np.pad(feature, ((1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 4, 5))
    for k, y, x, c, i, j in np.ndindex(2, 4, 5, 3, 3, 3):
        expected[k, y, x] += kernels[k, c, i, j] * padded[y + i, x + j, c]
    logits = mask_logits(
        jnp.asarray(feature, jnp.float32), jnp.asarray(kernels.reshape(2, -1), jnp.float32)
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_model_with_3x3_kernels_predicts():
    config = dataclasses.replace(tiny_solov2_config(), kernel_size=3)
    model = config.build()
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), (1, 64, 64, 3)))
    assert variables["params"]["head"]["kernel"]["bias"].shape == (9 * 16,)
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    found = jax.eval_shape(model.predict, variables, images, jnp.asarray([[64, 64]]))
    assert found.masks.shape == (1, 8, 16, 16)


def test_positives_beyond_the_limit_are_counted_and_not_learned():
    config = dataclasses.replace(tiny_solov2_config(), pos_scale=1.0)
    batch = jax.tree.map(jnp.asarray, make_batch([(64, 64)], [4], targets=TARGETS))
    padded_size = jnp.asarray([[64, 64]])
    every = make_targets(config, batch, padded_size)
    few = make_targets(dataclasses.replace(config, max_positives=3), batch, padded_size)
    assert int(every.dropped[0]) == 0
    assert int(few.dropped[0]) == int(every.valid.sum()) - 3

    cells = sum(g * g for g in config.num_grids)
    logits, kernels = jnp.zeros((1, cells, 3)), jnp.ones((1, cells, 16))
    feature = jnp.ones((1, 16, 16, 16))
    terms, metrics = solo_losses(
        dataclasses.replace(config, max_positives=3), logits, kernels, feature, batch
    )
    assert float(metrics["positives_dropped"].total) == float(few.dropped[0])
    assert float(terms["mask"].count) <= 3
    assert float(terms["class"].count) == float(every.positive.sum())


def test_the_class_loss_is_divided_by_one_more_than_the_positive_cells():
    """MMDetection's `avg_factor=num_pos + 1`, so that an image without objects is learned too."""
    config = tiny_solov2_config()
    cells = sum(g * g for g in config.num_grids)
    logits, kernels = jnp.zeros((1, cells, 3)), jnp.ones((1, cells, 16))
    feature = jnp.ones((1, 16, 16, 16))
    for objects in (0, 3):
        batch = jax.tree.map(jnp.asarray, make_batch([(64, 64)], [objects], targets=TARGETS))
        terms, _ = solo_losses(config, logits, kernels, feature, batch)
        assert (terms["class"].count > 0) == (objects > 0)
        assert (terms["class"].weight, terms["class"].offset) == (1, 1)
        assert (terms["mask"].weight, terms["mask"].offset) == (3, 0)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_shared_cell_goes_to_the_object_with_the_smaller_box(order):
    config = dataclasses.replace(tiny_solov2_config(), shared_cells="smallest")
    batch = jax.tree.map(jnp.asarray, make_batch([(64, 64)], [2], targets=TARGETS))
    boxes = np.asarray([[12, 27, 52, 37], [24, 21, 39, 43]], np.float32)  # 40 x 10, 15 x 22
    labels, centers = np.asarray([0, 1]), np.asarray([[32, 32], [32, 32]], np.float32)
    slots = {"boxes": boxes, "labels": labels, "centers": centers}
    batch = batch._replace(
        **{
            name: getattr(batch, name).at[0, :2].set(values[order])
            for name, values in slots.items()
        }
    )
    targets = make_targets(config, batch, jnp.asarray([[64, 64]]))
    shared = np.asarray(targets.positive[0])
    assert shared.any()
    assert (np.asarray(targets.label[0])[shared] == 1).any()
    cells = np.asarray(targets.cell[0])[np.asarray(targets.valid[0])]
    twice = [cell for cell in set(cells.tolist()) if (cells == cell).sum() == 2]
    assert twice
    assert (np.asarray(targets.label[0])[twice] == 1).all()


def random_head(rng, config, shape):
    """One image's logits, kernels and feature, whose channel n is a blurred rectangle of cell n."""
    cells = sum(grid * grid for grid in config.num_grids)
    logits = rng.normal(0, 1.5, (cells, 2))
    feature = rng.normal(-2, 0.8, (*shape, cells))
    for n in range(cells):
        y, x = rng.integers(0, 5, 2)
        height, width = rng.integers(1, 6, 2)
        part = feature[y : y + height, x : x + width, n]
        part[...] = rng.normal(rng.uniform(0.3, 3), 0.8, part.shape)
    return [np.asarray(x, np.float32) for x in (logits, np.eye(cells), feature)]


@pytest.mark.parametrize(("seed", "most"), [(0, 24), (1, 24), (2, 24), (3, 24), (4, 5)])
def test_instances_agree_with_the_loop(seed, most):
    config = dataclasses.replace(
        tiny_solov2_config(),
        num_grids=(4, 3, 2, 1, 1),
        min_mask_area=(2, 4, 8, 12, 16),
        score_threshold=0.3,
        post_nms_score_threshold=0.35,
        pre_nms_topk=100,
        detections_per_image=most,
    )
    logits, kernels, feature = random_head(np.random.default_rng(seed), config, (8, 8))
    image_size, padded_size = (26, 21), (28, 24)
    expected = slow_select_instances(config, logits, kernels, feature, image_size, padded_size)
    sizes = jnp.asarray(image_size), jnp.asarray(padded_size)
    select = jax.jit(functools.partial(select_instances, config))
    boxes, scores, labels, valid, masks = map(np.asarray, select(logits, kernels, feature, *sizes))
    assert len(expected) == 5 if most == 5 else 5 < len(expected) < most
    assert len(valid) == most
    assert valid.sum() == len(expected)
    assert valid[: len(expected)].all()
    for n, (box, score, label, mask) in enumerate(expected):
        np.testing.assert_array_equal(boxes[n], box)
        np.testing.assert_allclose(scores[n], score, rtol=1e-5)
        assert labels[n] == label
        repeated = np.pad(mask, ((0, 8 - mask.shape[0]), (0, 8 - mask.shape[1])), mode="edge")
        np.testing.assert_allclose(masks[n], repeated, rtol=1e-5)
    assert not any(x[len(expected) :].any() for x in (boxes, scores, labels, masks))


def test_a_batch_without_centres_is_refused():
    batch = make_batch([(64, 64)], [2], targets=TARGETS)._replace(centers=None)
    with pytest.raises(ValueError, match="must have `centers`"):
        make_targets(tiny_solov2_config(), batch, jnp.asarray([[64, 64]]))


def test_channels_that_do_not_divide_into_groups_are_refused():
    config = dataclasses.replace(tiny_solov2_config(), head_channels=18)
    with pytest.raises(ValueError, match="18 channels do not divide into the 4 groups"):
        jax.eval_shape(lambda: config.build().init(jax.random.key(0), (1, 64, 64, 3)))


def test_the_order_of_objects_with_the_same_box_does_not_matter():
    batch = make_batch([(64, 64)], [2], targets=TARGETS)
    twins = batch._replace(
        boxes=np.repeat(batch.boxes[:, :1], 6, 1),
        centers=np.repeat(batch.centers[:, :1], 6, 1),
        labels=np.asarray([[0, 1, 0, 0, 0, 0]], np.int32),
    )
    padded_size = jnp.asarray([[64, 64]])
    one = make_targets(tiny_solov2_config(), jax.tree.map(jnp.asarray, twins), padded_size)
    swapped = twins._replace(labels=twins.labels[:, [1, 0, 2, 3, 4, 5]])
    other = make_targets(tiny_solov2_config(), jax.tree.map(jnp.asarray, swapped), padded_size)
    assert one.positive.any()
    np.testing.assert_array_equal(one.label, other.label)


def nested_objects(order):
    """Objects around one centre: the smallest is not the last in any of the orders below."""
    batch = make_batch([(64, 64)], [3], targets=TARGETS)
    half = np.asarray([10.0, 6.0, 8.0], np.float32)[list(order)]
    center = np.full((3, 2), 31.0, np.float32)
    boxes, centers = np.zeros_like(batch.boxes), np.zeros_like(batch.centers)
    boxes[0, :3] = np.concatenate([center - half[:, None], center + half[:, None]], axis=1)
    centers[0, :3] = center
    labels = np.zeros_like(batch.labels)
    labels[0, :3] = np.asarray([0, 1, 2])[list(order)]
    return batch._replace(boxes=boxes, centers=centers, labels=labels)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("shared_cells", ["smallest", "last"])
def test_shared_cells_agree_with_the_loop(shared_cells, order):
    """MMDetection's loop overwrites a cell; with "smallest", it sees the objects by size."""
    config = dataclasses.replace(tiny_solov2_config(), shared_cells=shared_cells, pos_scale=0.6)
    batch = nested_objects(order)
    by_size = [order.index(n) for n in (0, 2, 1)]  # the largest first
    seen = by_size if shared_cells == "smallest" else [0, 1, 2]
    positive, label, pairs = slow_grid_targets(
        batch.boxes[0, seen],
        batch.labels[0, seen],
        batch.centers[0, seen],
        [True] * 3,
        (64, 64),
        config.num_grids,
        config.scale_ranges,
        config.pos_scale,
    )
    targets = make_targets(config, jax.tree.map(jnp.asarray, batch), jnp.asarray([[64, 64]]))
    found = np.asarray(targets.positive[0])
    np.testing.assert_array_equal(found, positive)
    np.testing.assert_array_equal(np.asarray(targets.label[0])[found], np.asarray(label)[found])
    learned = targets.cell[0][targets.valid[0]], targets.gt_index[0][targets.valid[0]]
    expected = sorted((cell, seen[n]) for cell, n in pairs)
    assert sorted(zip(*(x.tolist() for x in learned), strict=True)) == expected
    assert len({cell for cell, _ in pairs}) < len(pairs)  # some cells are shared


def test_published_models_have_the_rule_of_their_sources():
    for record in published.RECORDS:
        assert record.config.shared_cells == "last"


def test_images_must_be_padded_to_the_size_divisibility():
    model = dataclasses.replace(tiny_solov2_config(), size_divisibility=(64, 128)).build()
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), (1, 64, 64, 3)))
    images, size = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.asarray([[40, 52]])
    with pytest.raises(ValueError, match=r"padded to 64x64, .* multiples of \(64, 128\)"):
        jax.eval_shape(model.predict, variables, images, size)
