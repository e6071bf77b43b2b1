"""The weighted sums of RoIAlign and their gradient, in chunks on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import ops
from jaxseg.ops.batching import one_by_one
from jaxseg.ops.roi_taps import Taps, pool_taps, pool_taps_gradient

IMAGES, CELLS, CHANNELS, BINS = 2, 50, 3, (2, 3)


def random_taps(rng, rois, bins, samples, used):
    """Return taps of several images; samples from an image's number in `used` on have no weight."""
    shape = (len(used), rois, bins, samples, 2)
    has_weight = np.arange(samples)[:, None] < np.asarray(used)[:, None, None, None, None]
    weight = np.where(has_weight, rng.uniform(0, 1, shape), 0).astype(np.float32)
    cell = rng.integers(0, CELLS // 2, shape).astype(np.int32)
    return Taps(cell, weight, np.asarray(used, np.int32))


def by_loops(cells, taps_y, taps_x, gradient):
    """Return the sums and the gradient of the cells, of one image."""
    (cell_y, weight_y), (cell_x, weight_x) = (
        [a.reshape(*a.shape[:2], 2 * a.shape[2]) for a in taps[:2]] for taps in (taps_y, taps_x)
    )
    total, of_cells = np.zeros(gradient.shape), np.zeros(cells.shape)
    for y in range(cell_y.shape[2]):
        for x in range(cell_x.shape[2]):
            cell = cell_y[:, :, None, y] + cell_x[:, None, :, x]
            weight = (weight_y[:, :, None, y] * weight_x[:, None, :, x])[..., None]
            total += cells[cell] * weight
            np.add.at(of_cells, cell, gradient * weight)
    return total, of_cells


def level_of(taps):
    return jnp.zeros(taps.cell.shape[0], jnp.int32)


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize(
    ("rois", "samples", "used"),
    [(0, 2, (2, 2)), (5, 2, (2, 2)), (33, 1, (1, 1)), (150, 2, (2, 2)), (40, 6, (5, 2))],
)
def test_every_roi_counts_once_in_each_image(rois, samples, used, in_a_loop):
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(IMAGES, CELLS, CHANNELS)).astype(np.float32)
    taps = [random_taps(rng, rois, bins, samples, used) for bins in BINS]
    gradient = rng.normal(size=(IMAGES, rois, *BINS, CHANNELS)).astype(np.float32)

    def both(cells, taps_y, taps_x, gradient):
        arguments = (cells[:, None],), level_of(taps_y), taps_y, taps_x  # a map of one column
        return pool_taps(*arguments), pool_taps_gradient(*arguments, gradient)[0][:, 0]

    of_images = jax.jit(jax.vmap(one_by_one(both) if in_a_loop else both))
    pooled, of_cells = of_images(cells, *taps, gradient)
    for image in range(IMAGES):
        one = [jax.tree.map(lambda x, image=image: x[image], x) for x in taps]
        expected = by_loops(cells[image], *one, gradient[image])
        np.testing.assert_allclose(pooled[image], expected[0], atol=2e-5)
        np.testing.assert_allclose(of_cells[image], expected[1], atol=5e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="chunks are for CPUs")
def test_memory_of_a_sum_and_its_gradient_is_that_of_maps_and_pooled_features():
    boxes, channels = jnp.zeros((1, 256, 4)), 32
    maps = jnp.zeros((1, 100, 100, channels))

    def summed(maps, boxes):
        pool = functools.partial(ops.roi_align, output_size=(7, 7), spatial_scale=1.0)
        return jax.vmap(pool)(maps, boxes).sum()

    compiled = jax.jit(jax.value_and_grad(summed)).lower(maps, boxes).compile()
    pooled_bytes = 256 * 7 * 7 * channels * 4
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < 1.3 * (maps.nbytes + pooled_bytes)


def test_a_box_that_is_not_finite_does_not_change_the_others():
    boxes = jnp.asarray([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, jnp.nan, 4.0]])
    pooled = ops.roi_align(
        jnp.ones((4, 4, 1)), boxes, output_size=(1, 1), spatial_scale=1.0, sampling_ratio=0
    )
    assert pooled.ravel()[0] == 1
