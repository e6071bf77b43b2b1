"""The semantic branch depends on the images alone, not on the maps' size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.heads.semantic_fpn import SemanticFPNHead
from jaxseg.nn.padding import extent_mask, level_extent, zero_outside
from jaxseg.nn.resize import repeat_border

SIZES = jnp.asarray([[64, 96], [32, 64]])
HEAD = SemanticFPNHead(num_classes=3, channels=8, norm_groups=4)


def pyramid(height, width):
    """Return maps of random numbers inside the images' sizes and zeros outside."""
    rng, maps = np.random.default_rng(0), {}
    for stride in (4, 8, 16, 32, 64):
        values = rng.normal(size=(2, 96 // stride + 1, 128 // stride + 1, 4)).astype(np.float32)
        cells = -(-height // stride), -(-width // stride)
        mask = extent_mask(level_extent(SIZES, stride), *cells)
        maps[stride] = zero_outside(jnp.asarray(values[:, : cells[0], : cells[1]]), mask)
    return maps


@pytest.fixture(scope="module")
def head():
    """The head's logits, as a function of the maps; its parameters are random."""
    shapes = jax.eval_shape(HEAD.init, jax.random.key(0), pyramid(64, 96), SIZES)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return jax.jit(lambda maps: HEAD.apply(variables, maps, SIZES))


def test_more_padding_changes_no_logit(head):
    small, large = head(pyramid(64, 96)), head(pyramid(96, 128))
    assert small.shape == (2, 16, 24, 3)
    np.testing.assert_allclose(small[0], large[0, :16, :24], atol=1e-4)
    np.testing.assert_allclose(small[1, :8, :16], large[1, :8, :16], atol=1e-4)


def test_border_cells_are_repeated_outside_an_image():
    x = jnp.arange(2 * 3 * 4, dtype=jnp.float32).reshape(2, 3, 4, 1)
    found = repeat_border(x, jnp.asarray([[3, 4], [2, 3]]))
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(
        found[1, ..., 0], [[12, 13, 14, 14], [16, 17, 18, 18], [16, 17, 18, 18]]
    )
