"""Time training steps and predictions of the R50 models on the devices of this machine.

    python scripts/time_step.py [IMAGES_PER_DEVICE] [HEIGHT] [WIDTH]

Prints images per second (median of the steps after compilation), compile time and peak memory, for
Mask R-CNN and SOLOv2 in float32 and bfloat16. Batches are random and already on the device; every
image has 8 objects in 100 slots. Needs JAX, Flax and Optax alone.
"""

import dataclasses
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np
import optax

from jaxseg.model import Model
from jaxseg.parallel import pmap_step, replicate
from jaxseg.training.step import init_state, make_step
from jaxseg.types import Batch
from jaxseg.zoo import MODELS

NAMES = ("mmdet_mask_rcnn_r50_fpn", "mmdet_solov2_r50_fpn")
STEPS, OBJECTS, SLOTS = 12, 8, 100


def random_batch(model: Model, images: int, bucket: tuple[int, int]) -> Batch:
    """Make a batch of noise with boxes of a tenth to a half of the image."""
    rng = np.random.default_rng(0)
    size = np.asarray([bucket[1], bucket[0]] * 2, np.float32)
    corner = rng.uniform(0, 0.5, (images, SLOTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, corner.shape)], 2) * size
    valid = np.broadcast_to(np.arange(SLOTS) < OBJECTS, (images, SLOTS))
    targets = model.targets
    height, width = (0, 0) if targets.masks is None else targets.masks.shape(bucket)
    shape = (images, SLOTS, height, -(-width // 8))  # packed bits
    return Batch(
        images=rng.integers(0, 256, (images, *bucket, 3), np.uint8),
        image_size=np.tile(np.asarray(bucket, np.int32), (images, 1)),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, 80, (images, SLOTS)).astype(np.int32),
        valid=valid,
        index=np.arange(images, dtype=np.int32),
        masks=None if targets.masks is None else rng.integers(0, 256, shape, np.uint8),
        centers=(boxes[..., :2] + boxes[..., 2:]).astype(np.float32) / 2,
    )


def time_calls(call: Any) -> tuple[float, float]:
    """Return seconds of the first call and the median of the others."""
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return seconds[0], statistics.median(seconds[2:])


def time_model(name: str, dtype: str, images: int, bucket: tuple[int, int]) -> None:
    """Print one row for training and one for prediction."""
    model = dataclasses.replace(MODELS[name].config, compute_dtype=dtype).build()  # type: ignore[type-var]
    optimizer, devices = optax.sgd(0.01, momentum=0.9), jax.device_count()
    batch = random_batch(model, images * devices, bucket)
    state = replicate(init_state(model, optimizer, (1, *bucket, 3), seed=0), devices)
    variables = jax.tree.map(np.asarray, {"params": state.params, **state.model_state})
    step = pmap_step(make_step(model, optimizer, seed=0), devices)

    def train() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    rows = [("train", *time_calls(train), len(batch.images))]
    predict = jax.jit(model.predict)
    variables, pixels, sizes = jax.device_put((variables, batch.images, batch.image_size))
    rows.append(("predict", *time_calls(lambda: predict(variables, pixels, sizes)), len(pixels)))
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", 0) / 2**30
    for what, compile_time, seconds, count in rows:
        print(
            f"| {name} | {dtype} | {what} | {count / seconds:.1f} | {1000 * seconds:.0f} "
            f"| {compile_time:.0f} | {peak:.1f} |",
            flush=True,
        )


def main(images: int = 8, height: int = 832, width: int = 1344) -> None:
    device = jax.devices()[0].device_kind
    print(f"{jax.device_count()} x {device}, JAX {jax.__version__}, {height}x{width}")
    print("| model | dtype | | images/s | ms | first call, s | peak so far, GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for dtype in ("bfloat16", "float32"):
        for name in NAMES:
            time_model(name, dtype, images, (height, width))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
