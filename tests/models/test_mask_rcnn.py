import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.models.mask_rcnn import MaskRCNNConfig, RoIs, mask_loss, mask_rcnn
from jaxseg.nn.resnet import ResNetConfig
from tests.tiny import MASK_SIZE, make_batch, tiny_config


def count_parameters(config):
    variables = jax.eval_shape(lambda: mask_rcnn(config).init(jax.random.key(0), (1, 64, 64, 3)))
    statistics = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("batch_stats", {}))
        if path[-1].key in ("scale", "bias")
    ]
    leaves = jax.tree.leaves(variables["params"]) + statistics
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


def test_the_paper_model_has_the_published_number_of_parameters():
    """torchvision's `maskrcnn_resnet50_fpn`: 44,401,393 with 91 classes.

    Its box head regresses and its mask head predicts the background class too, which costs
    4 * 1025 and 257 parameters more than here. Its frozen batch norms count as buffers,
    that is 53,120 scales and biases that are counted here.
    """
    parameters = count_parameters(MaskRCNNConfig(num_classes=90))
    assert parameters == 44_401_393 - 4 * 1025 - 257 + 53_120


@pytest.mark.parametrize("depth", [34, 101])
def test_other_depths_build(depth):
    config = MaskRCNNConfig(num_classes=2, backbone=ResNetConfig(depth=depth, width=8))
    assert count_parameters(config) > 1_000_000


def test_images_must_be_padded_to_multiples_of_32():
    with pytest.raises(ValueError, match="multiples of 32"):
        mask_rcnn(tiny_config()).init(jax.random.key(0), (1, 60, 64, 3))


def test_mask_loss_of_a_perfect_prediction_is_zero():
    batch = jax.tree.map(jnp.asarray, make_batch([(64, 64)], [2]))
    rois = RoIs(
        boxes=batch.boxes[:, :2],
        valid=jnp.ones((1, 2), bool),
        positive=jnp.asarray([[True, False]]),
        gt=jnp.asarray([[0, 1]]),
    )
    frames = batch.boxes[0]
    target = ops.mask_targets(
        batch.masks[0], frames, frames[:2], jnp.asarray([0, 1]), size=MASK_SIZE
    )
    logits = jnp.where(target[..., None] >= 0.5, 40.0, -40.0) * jnp.ones((1, 1, 1, 3))
    term = mask_loss(logits, rois, batch)
    assert float(term.weight) == 1
    assert float(term.total) < 1e-6
    wrong = mask_loss(-logits, rois, batch)
    np.testing.assert_allclose(wrong.total, 40, rtol=1e-5)
