import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.heads.mask_head import MaskHead, MaskHeadConfig
from jaxseg.model import BATCH_AXIS
from jaxseg.types import BoxCrops, ImageMasks


@pytest.mark.parametrize(
    ("logit_init_std", "expected"), [(0.001, 0.001), (0.05, 0.05), (None, (2 / 80) ** 0.5)]
)
def test_the_logits_initial_weights_have_the_documented_deviation(logit_init_std, expected):
    """Without one of its own, like the other layers: He's, of the number of outputs."""
    config = MaskHeadConfig(num_convs=0, conv_dim=64, logit_init_std=logit_init_std)
    head = MaskHead(config, outputs=80, norm=None)
    slots = jnp.zeros((1, 2, 2, 64)), jnp.ones(1, bool), jnp.zeros(1, int)
    params = jax.jit(head.init, static_argnums=4)(jax.random.key(0), *slots, False)["params"]
    np.testing.assert_allclose(np.std(params["logit"]["kernel"]), expected, rtol=0.05)


def test_targets_of_the_whole_image_need_its_masks():
    assert MaskHeadConfig(gt_mask_size=28).gt_masks == BoxCrops(28)
    for kind in ("binary", "soft"):
        assert MaskHeadConfig(mask_targets=kind).gt_masks == ImageMasks(stride=1)


def test_statistics_are_those_of_the_valid_rois():
    head = MaskHead(MaskHeadConfig(num_convs=1, conv_dim=4), outputs=1, norm="sync_batch")
    pooled = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
    valid = jnp.asarray([True, True, False])
    labels = jnp.zeros(3, int)
    variables = head.init(jax.random.key(1), pooled, valid, labels, False)

    def logits(pooled):
        slots = pooled, valid, labels
        return head.apply(variables, *slots, True, mutable=["batch_stats"])[0][:2]

    apply = jax.vmap(logits, axis_name=BATCH_AXIS)
    first, other = apply(jnp.stack([pooled, pooled])), pooled.at[2].multiply(9)
    np.testing.assert_allclose(apply(jnp.stack([other, other])), first, rtol=1e-5)
    changed = apply(jnp.stack([pooled.at[1].multiply(9)] * 2))
    assert not np.allclose(changed[:, 0], first[:, 0], rtol=1e-3)


@pytest.mark.parametrize("agnostic", [False, True])
def test_each_roi_gets_the_mask_of_its_class(agnostic):
    config = MaskHeadConfig(num_convs=0, conv_dim=4, cls_agnostic_mask=agnostic)
    head = MaskHead(config, outputs=1 if agnostic else 3, norm=None)
    pooled, valid = jax.random.normal(jax.random.key(0), (3, 2, 2, 4)), jnp.ones(3, bool)
    labels = jnp.asarray([2, 0, 1])
    variables = head.init(jax.random.key(1), pooled, valid, labels, False)
    params = variables["params"]
    bias = jnp.arange(head.outputs, dtype=jnp.float32)
    logit = {"kernel": params["logit"]["kernel"] * 1000, "bias": bias}
    variables = {"params": params | {"logit": logit}}

    # The transposed convolution and the last layer by their definition.
    weights = params["upsample"]["kernel"].reshape(4, 2, 2, 4)
    hidden = jnp.einsum("ryxc,cijd->ryixjd", pooled, weights).reshape(3, 4, 4, 4)
    hidden = jnp.maximum(hidden + params["upsample_bias"][None, None, None], 0)
    every = jnp.einsum("rhwd,do->rhwo", hidden, logit["kernel"]) + bias[None, None, None]
    outputs = jnp.zeros(3, int) if agnostic else labels
    expected = every[jnp.arange(3), :, :, outputs]
    found = head.apply(variables, pooled, valid, labels, False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
