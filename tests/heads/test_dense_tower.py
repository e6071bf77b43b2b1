"""The towers of dense heads: their initial weights."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.heads.dense_tower import DenseTower


def test_initial_weights_are_those_of_the_paper():
    tower = DenseTower(num_convs=2, channels=64, groups=8)
    x, mask = jnp.zeros((1, 4, 4, 64)), jnp.ones((1, 4, 4, 1), bool)
    variables = tower.init(jax.random.key(0), x, mask)
    for number in (1, 2):
        kernel = np.asarray(variables["params"][f"conv{number}"]["conv"]["kernel"])
        assert kernel.shape == (3, 3, 64, 64)
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.02)
