import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.heads.box_head import RoIs
from jaxseg.heads.mask_head import MaskHeadConfig, mask_loss_total, mask_samples, mask_targets
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.zoo import MODELS, RESNETS
from jaxseg.zoo import mask_rcnn as published
from tests.tiny import MASK_SIZE, make_batch, tiny_config


def count_parameters(config):
    variables = jax.eval_shape(lambda: config.build().init(jax.random.key(0), (1, 64, 64, 3)))
    leaves = jax.tree.leaves([variables["params"], variables.get("frozen", {})])
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


def affine(blocks, inner):
    """Scales and biases of all batch norms of a ResNet of bottlenecks that are `inner` times as
    wide inside as the paper's."""
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        channels += count * (2 * inner * width + 4 * width) + 4 * width
    return 2 * channels


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # What torchvision states, less 1000 classes on 512 or 2048 channels.
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
        ("resnext50_32x4d", 25_028_904 - 2_049_000),
        ("resnext101_32x8d", 88_791_336 - 2_049_000),
    ],
)
def test_resnets_have_the_published_number_of_parameters(name, expected):
    config = dataclasses.replace(RESNETS[name], norm="sync_batch")
    images, size = jnp.zeros((1, 32, 32, 3)), jnp.full((1, 2), 32)
    init = ResNet(config).init
    variables = jax.eval_shape(lambda: init(jax.random.key(0), images, size, train=False))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # As torchvision states them.
        (published.TORCHVISION_R50_FPN, 44_401_393),
        (published.TORCHVISION_R50_FPN_V2, 46_359_409),
        # Torchvision's without the 11 classes that are not there or the background: 10 + 1 rows
        # of 1025, 44 of 1025 and 11 of 257. MMDetection trains the batch norms as well.
        (published.DETECTRON2_R50_FPN, 44_401_393 - 10 * 1025 - 44 * 1025 - 11 * 257),
        (
            published.MMDET_R50_FPN,
            44_401_393 - 10 * 1025 - 44 * 1025 - 11 * 257 + affine((3, 4, 6, 3), 1),
        ),
        # ResNet-101 has 17 more blocks in stage 4, each of 1024 x 256 twice and 3 x 3 x 256 x 256.
        (
            published.DETECTRON2_R101_FPN,
            44_401_393 - 54 * 1025 - 11 * 257 + 17 * (2 * 1024 * 256 + 9 * 256 * 256),
        ),
        # In place of ResNet-50's convolutions those of ResNeXt-101.
        (
            published.DETECTRON2_X101_FPN,
            44_401_393
            - 54 * 1025
            - 11 * 257
            - (23_508_032 - affine((3, 4, 6, 3), 1))
            + (86_742_336 - affine((3, 4, 23, 3), 4)),
        ),
    ],
)
def test_published_models_have_the_published_number_of_parameters(config, expected):
    """Counted as torchvision does: a frozen batch norm's vectors are no parameters.

    `tests/zoo/test_records.py` counts those of each record's model.
    """
    (record,) = (record for record in MODELS.values() if record.config == config)
    assert record.parameters == expected


@pytest.mark.parametrize("depth", [34, 101])
def test_other_depths_build(depth):
    config = MaskRCNNConfig(num_classes=2, backbone=ResNetConfig(depth=depth, width=8))
    assert count_parameters(config) > 1_000_000


def test_pooling_and_heads_have_the_documented_defaults():
    """As trained from scratch in `experiments/`: aligned, four samples a cell, no background."""
    config = MaskRCNNConfig()
    assert (config.roi_align.aligned, config.roi_align.sampling_ratio) == (True, 2)
    assert not config.predict_background
    assert config.num_classes == 80


@pytest.mark.parametrize(("agnostic", "outputs"), [(False, 3), (True, 1)])
def test_a_mask_for_all_classes_is_one_output(agnostic, outputs):
    config = tiny_config()
    mask = dataclasses.replace(config.mask, cls_agnostic_mask=agnostic)
    init = dataclasses.replace(config, mask=mask).build().init
    params = jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))["params"]
    assert params["mask_head"]["logit"]["bias"].shape == (outputs,)


def test_images_must_be_padded_to_multiples_of_32():
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny_config().build().init(jax.random.key(0), (1, 60, 64, 3))


def test_mask_loss_of_a_perfect_prediction_is_zero():
    batch = jax.tree.map(jnp.asarray, make_batch([(64, 64)], [2]))
    rois = RoIs(
        boxes=batch.boxes[:, :2],
        valid=jnp.ones((1, 2), bool),
        positive=jnp.asarray([[True, False]]),
        gt_index=jnp.asarray([[0, 1]]),
    )
    frames = batch.boxes[0]
    target = ops.mask_targets(
        batch.masks[0], frames, frames[:2], jnp.asarray([0, 1]), size=MASK_SIZE
    )
    logits = jnp.where(target >= 0.5, 40.0, -40.0)
    config = MaskHeadConfig(pooler_resolution=MASK_SIZE // 2)
    samples = mask_samples(config, rois, batch)
    assert float(mask_loss_total(logits, samples)) < 1e-6
    np.testing.assert_allclose(mask_loss_total(-logits, samples), 40, rtol=1e-5)


@pytest.mark.parametrize("size", [14, 28])
def test_cells_that_are_just_half_covered_are_always_inside(size):
    """A RoI that is the object's own box, wherever it lies, has the targets of exact arithmetic."""
    side, count = 16, 64
    rng = np.random.default_rng(0)
    crops = rng.random((1, count, side, side)) < 0.5
    corners = rng.uniform(0, 1000, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 300, (count, 2))], 1)[None]
    boxes = jnp.asarray(boxes, jnp.float32)
    batch = make_batch([(64, 64)], [count], slots=count)
    batch = batch._replace(boxes=boxes, masks=jnp.asarray(crops))
    every = jnp.ones((1, count), bool)
    rois = RoIs(boxes, every, every, jnp.arange(count)[None])
    found = np.asarray(mask_targets("box_crop", rois, batch, size))
    # A crop's cell i has its centre at 4 * size * i + 2 * size parts, a sample k at the odd
    # multiple (2 k + 1) of side: numbers without rounding.
    samples = (2 * np.arange(2 * size)[:, None] + 1) * side
    centres = 4 * size * np.arange(side)[None] + 2 * size
    samples = np.clip(samples, 2 * size, 4 * size * (side - 1) + 2 * size)
    tents = np.maximum(4 * size - np.abs(samples - centres), 0)
    weights = tents.reshape(size, 2, side).sum(1)
    exact = np.einsum("ph,rhw,qw->rpq", weights, crops[0].astype(int), weights)
    half = (2 * 4 * size) ** 2 // 2
    assert (exact == half).mean() > 0.01
    np.testing.assert_array_equal(found.astype(bool), exact >= half)
