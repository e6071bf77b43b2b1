"""Batches in the shared memory of workers: what keeps them, and what frees them."""

import dataclasses
import gc
import mmap
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest

from jaxseg.data import DataConfig, Shapes, train_batches
from jaxseg.model import BATCH_AXIS
from jaxseg.parallel import pmap_step, shard_map_step
from jaxseg.types import BoxCrops, TargetSpec
from tests.conftest import ROOT

SHAPES = Shapes(size=320, train_images=10, val_images=5)
CONFIG = DataConfig(SHAPES, buckets=((320, 320),), max_objects=8, num_workers=1)


def batches(config):
    source = SHAPES.open("train")
    return train_batches(source, config, TargetSpec(BoxCrops(14)), batch_size=4, seed=3)


@pytest.mark.skipif(sys.platform != "linux", reason="maps /dev/shm")
def test_large_arrays_are_mapped_and_outlive_their_stream():
    stream = batches(CONFIG)
    expected = next(batches(dataclasses.replace(CONFIG, num_workers=0)))
    batch = next(stream)
    for name, x, y in zip(batch._fields, batch, expected, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
        assert x is None or type(x) is np.ndarray
    assert isinstance(batch.images.base, mmap.mmap)
    assert batch.boxes.base is None
    stream.close()
    part, owner = batch.images.reshape(2, 2, 320, 320, 3)[1], weakref.ref(batch.images.base)
    del batch
    gc.collect()
    np.testing.assert_array_equal(part, expected.images[2:])
    del part
    gc.collect()
    assert owner() is None


class Segment(np.ndarray):
    """An array over a buffer, which is overwritten once nothing refers to the array."""

    @classmethod
    def of(cls, values):
        memory = mmap.mmap(-1, values.nbytes)
        array = cls(values.shape, values.dtype, buffer=memory)
        array[...] = values
        plain = np.ndarray(values.shape, values.dtype, buffer=memory)
        weakref.finalize(array, plain.fill, 255)
        return array


@pytest.mark.parametrize("parallel", [pmap_step, shard_map_step])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_reads_the_array_although_nobody_else_refers_to_it(parallel, devices):
    def step(state, images):
        # The array is read at the end of a loop, long after the call has returned.
        turns = jax.lax.fori_loop(0, 20_000_000, lambda i, x: x * 3 + i, state)
        return turns, jax.lax.psum(images.sum(dtype=np.int32) + 0 * turns, BATCH_AXIS)

    run, state = parallel(step, devices), np.int32(1)
    values = np.arange(4 * 512 * 512, dtype=np.uint8).reshape(4, 512, 512)
    run.compile(state, values)
    totals = []
    for _ in range(3):
        state, total = run(state, Segment.of(values).view(np.ndarray))
        totals.append(total)
    assert [int(total) for total in totals] == [values.sum(dtype=np.int32)] * 3


@pytest.mark.slow
def test_a_program_may_end_with_a_batch():
    code = "from tests.data.test_shared_batches import *\n"
    code += "if __name__ == '__main__':\n    stream = batches(CONFIG)\n    kept = next(stream)\n"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Exception" not in ended.stderr
