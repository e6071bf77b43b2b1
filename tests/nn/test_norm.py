"""Batch norm's running statistics, and norms after convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxseg.model import BATCH_AXIS
from jaxseg.nn.conv import Conv
from jaxseg.nn.norm import BatchNorm, conv_and_norm, make_norm


def train_once(statistics, x, mask):
    """The running statistics after a training call on one device."""

    def call(x, mask):
        variables = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}, "batch_stats": start}
        _, state = BatchNorm().apply(variables, x, mask, train=True, mutable=["batch_stats"])
        return state["batch_stats"]

    start = jax.tree.map(jnp.asarray, statistics)
    mapped = jax.vmap(call, axis_name=BATCH_AXIS)(x[None], mask[None])
    return jax.tree.map(lambda value: np.asarray(value[0]), mapped)


@pytest.fixture
def statistics():
    return {"mean": np.float32([3.0, -1.0]), "var": np.float32([2.0, 0.5])}


@pytest.mark.parametrize("cells", [0, 1])
def test_statistics_stay_where_there_is_no_variance(statistics, cells):
    """A box head's convolutions see no cell in a batch without RoIs."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 2)), jnp.float32)
    mask = jnp.arange(24).reshape(2, 3, 4, 1) < cells
    after = statistics
    for _ in range(30):
        after = train_once(after, x, mask)
    jax.tree.map(np.testing.assert_array_equal, after, statistics)


@pytest.mark.parametrize("cells", [2, 5, 24])
def test_statistics_move_by_the_momentum_for_any_other_number_of_cells(statistics, cells):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    mask = jnp.arange(24).reshape(2, 3, 4, 1) < cells
    after = train_once(statistics, jnp.asarray(x), mask)
    data = x.reshape(24, 2)[:cells].astype(np.float64)
    for name, value in (("mean", data.mean(0)), ("var", data.var(0, ddof=1))):
        expected = 0.9 * statistics[name] + 0.1 * value
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["frozen", "norm_eval", "group"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_convolution_and_its_norm_are_the_two_layers(kind, dtype, tolerance):
    """A frozen norm is multiplied into the kernel."""
    rng = np.random.default_rng(0)
    conv = functools.partial(Conv, 4, (3, 3), padding=1, use_bias=False, dtype=dtype, name="conv")
    mask = jnp.ones((2, 6, 5, 1), bool)

    class Both(nn.Module):
        joined: bool

        @nn.compact
        def __call__(self, x):
            norm = make_norm(kind, name="norm")
            if self.joined:
                return conv_and_norm(conv, norm, x, mask, train=False)
            return norm(conv()(x), mask, train=False)

    x = jnp.asarray(rng.normal(size=(2, 6, 5, 3)), dtype)
    variables = Both(joined=False).init(jax.random.key(0), x)
    values = jax.tree.map(lambda v: jnp.asarray(rng.uniform(0.5, 2, v.shape), v.dtype), variables)
    assert jax.tree.map(jnp.shape, Both(joined=True).init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, variables
    )
    expected = Both(joined=False).apply(values, x)
    found = Both(joined=True).apply(values, x)
    assert found.dtype == x.dtype
    scale = float(jnp.abs(expected).max())
    difference = jnp.abs(found.astype(jnp.float32) - expected.astype(jnp.float32)).max()
    assert float(difference) < tolerance * scale
