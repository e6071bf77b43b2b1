"""A loss over used rows alone: the values and gradients of the whole, and the rows left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.used_rows import CHUNK_ROWS, sum_over_used

ROWS = 4 * CHUNK_ROWS


def total(variables, x, others):
    weight, used = others
    each = weight * jnp.tanh(x @ variables["kernel"] + variables["bias"][None]).sum(1) ** 2
    return jnp.where(used, each, 0).sum()


def make(used_rows, rows=ROWS):
    rng = np.random.default_rng(0)
    variables = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    used = np.isin(np.arange(rows), used_rows)
    arrays = (variables, rng.normal(size=(rows, 3)), (rng.normal(size=rows), used), used)
    return jax.tree.map(lambda a: jnp.asarray(a, bool if a.dtype == bool else jnp.float32), arrays)


@pytest.mark.parametrize(
    ("used_rows", "rows"),
    [((), ROWS), ((0, 1, 5), ROWS), ((3, 40, 63), ROWS), (range(ROWS), ROWS), ((0, 9), 10)],
)
def test_value_and_gradients_are_those_of_all_rows(used_rows, rows):
    variables, x, others, used = make(used_rows, rows)

    @jax.jit
    def ours(variables, x):
        return 3 * sum_over_used(total, variables, x, others, used)

    def plain(variables, x):
        return 3 * total(variables, x, others)

    np.testing.assert_allclose(ours(variables, x), plain(variables, x), rtol=1e-5)
    found = jax.grad(ours, argnums=(0, 1))(variables, x)
    expected = jax.grad(plain, argnums=(0, 1))(variables, x)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected
    )


def test_chunks_without_a_used_row_are_not_computed():
    computed = []

    def watched(variables, x, others):
        jax.debug.callback(lambda first: computed.append(float(first)), x[0, 0])
        return total(variables, x, others)

    variables, x, others, used = make((CHUNK_ROWS, CHUNK_ROWS + 1, ROWS - 1))
    x = x.at[:, 0].set(jnp.arange(ROWS, dtype=jnp.float32))
    jax.block_until_ready(sum_over_used(watched, variables, x, others, used))
    jax.effects_barrier()
    assert sorted(computed) == [CHUNK_ROWS, ROWS - CHUNK_ROWS]


def test_gpus_and_tpus_compute_all_rows_at_once():
    arguments = make((0,))

    def program(platform):
        call = jax.jit(lambda v, x, o, u: sum_over_used(total, v, x, o, u))
        return call.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.while" in program("cpu")
    for platform in ("tpu", "cuda"):
        assert "stablehlo.while" not in program(platform)
