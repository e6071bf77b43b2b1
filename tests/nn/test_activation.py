"""The ReLU whose gradient needs its result alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.activation import relu

X = jnp.asarray([[-2.0, -0.0, 0.0, 1e-30], [3.0, np.nan, np.inf, -np.inf]])
MASK = jnp.asarray([[True, True, True, True], [False, True, True, False]])


@pytest.mark.parametrize("mask", [None, MASK])
def test_values_and_gradients_are_those_of_jax(mask):
    def expected(x):
        y = jax.nn.relu(x)
        return y if mask is None else jnp.where(mask, y, 0)

    gradient = jnp.arange(1.0, 9.0).reshape(X.shape)
    results = []
    for function in (lambda x: relu(x, mask), expected):
        y, pull = jax.vjp(function, X)
        results.append((y, pull(gradient)[0]))
    for actual, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the memory of a CPU's program")
def test_a_layer_keeps_one_map_for_its_gradient():
    layers, cells, channels = 8, 2048, 32

    def loss(kernels, x):
        for kernel in kernels:
            x = relu(x + x @ kernel, jnp.arange(cells)[:, None] < cells)
        return (x * x).sum()

    kernels, x = jnp.zeros((layers, channels, channels)), jnp.zeros((cells, channels))
    compiled = jax.jit(jax.grad(loss)).lower(kernels, x).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < (layers + 4) * x.nbytes
