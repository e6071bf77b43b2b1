import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.panoptic_fpn import semantic_loss, semantic_targets
from tests.tiny import STUFF, THINGS, make_batch, tiny_panoptic_fpn_config

CONFIG = tiny_panoptic_fpn_config()


def semantic_batch(sizes=((64, 64), (40, 52)), bucket=(64, 64)):
    targets = CONFIG.build().targets
    batch = make_batch(sizes, [2] * len(sizes), bucket, targets=targets)
    return jax.tree.map(jnp.asarray, batch)


def test_things_are_one_class_after_the_stuff():
    semantic = jnp.asarray([[[0, THINGS - 1, THINGS, THINGS + 1, 255]]], jnp.uint8)
    channel, labelled = semantic_targets(CONFIG, semantic)
    assert channel[0, 0, :4].tolist() == [STUFF, STUFF, 0, 1]
    assert labelled[0, 0].tolist() == [True, True, True, True, False]


def test_the_loss_is_a_sum_over_the_labelled_cells():
    batch = semantic_batch()
    logits = jax.random.normal(jax.random.key(0), (*batch.semantic.shape, STUFF + 1))
    term = semantic_loss(CONFIG, logits, batch)
    channel, labelled = (np.asarray(x) for x in semantic_targets(CONFIG, batch.semantic))
    probability = np.take_along_axis(np.asarray(jax.nn.softmax(logits)), channel[..., None], -1)
    np.testing.assert_allclose(term.total, -np.log(probability[labelled]).sum(), rtol=1e-5)
    assert int(term.count) == labelled.sum() < labelled.size
    assert term.weight == 0.5


@pytest.mark.parametrize("bucket", [(64, 64), (96, 128)])
def test_counting_ignored_cells_counts_those_of_whole_images(bucket):
    """They are those of the images padded to a multiple of 32, however large the batch's are."""
    semantic = dataclasses.replace(CONFIG.semantic, count_ignored=True)
    config = dataclasses.replace(CONFIG, semantic=semantic)
    batch = semantic_batch([(64, 64), (20, 40)], bucket)
    logits = jnp.zeros((*batch.semantic.shape, STUFF + 1))
    assert int(semantic_loss(config, logits, batch).count) == 16 * 16 + 8 * 16


def test_a_map_without_labels_has_no_loss():
    batch = semantic_batch()
    unlabelled = batch._replace(semantic=jnp.full_like(batch.semantic, 255))
    logits = jnp.ones((*batch.semantic.shape, STUFF + 1))
    gradient = jax.grad(lambda x: semantic_loss(CONFIG, x, unlabelled).total)(logits)
    assert not np.asarray(gradient).any()
    assert int(semantic_loss(CONFIG, logits, unlabelled).count) == 0


def test_a_batch_without_maps_is_refused():
    batch = semantic_batch()._replace(semantic=None)
    with pytest.raises(ValueError, match="learns from semantic"):
        jax.eval_shape(CONFIG.build().loss, {}, batch, jax.random.key(0))
