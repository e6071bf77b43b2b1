"""Values that the CPU's compiler computes late or once are the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.scheduling import compute_after, materialize, zeros_after

SPECIAL = np.asarray([-1.5, 0.0, np.nan, np.inf, -np.inf], np.float32)
OTHERS = pytest.mark.parametrize("first", [2.0, np.nan, np.inf])
"""The first element of the array that is computed before; no value of it may matter."""


@OTHERS
def test_values_are_unchanged_whatever_is_computed_before(first):
    other = jnp.full((2, 3), first)
    np.testing.assert_array_equal(jax.jit(compute_after)(SPECIAL, other), SPECIAL)
    np.testing.assert_array_equal(jax.jit(materialize)(SPECIAL, other), SPECIAL)
    zeros = jax.jit(lambda x: zeros_after((4,), x))(other)
    np.testing.assert_array_equal(zeros, np.zeros(4, np.float32))


def test_arrays_without_elements():
    empty = jnp.zeros((0, 3))
    for function in (compute_after, materialize):
        assert jax.jit(function)(empty, empty).shape == empty.shape
    assert not zeros_after((4,), empty).any()


def test_each_image_keeps_its_values():
    images, others = np.stack([SPECIAL, 2 * SPECIAL]), jnp.ones((2, 3))
    for function in (compute_after, materialize):
        np.testing.assert_array_equal(jax.jit(jax.vmap(function))(images, others), images)
