# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Eager, jit, vmap: times of jaxseg's operations
#
# Measure what compilation costs and what it gives: for single operations, for RoIAlign's
# variants, and for a whole model in float32 and bfloat16. The sizes follow the backend: small
# ones on a CPU, those of R50-FPN on COCO on a GPU or TPU. On two CPU cores all cells take about
# two minutes. The outputs that come with the notebook are of two cores that other programs used
# too: run it to get times of your machine.

# %%
# On a hosted machine, install a checkout of jaxseg first ("[cuda,notebooks]" with a GPU,
# "[tpu,notebooks]" with a TPU), and restart the kernel:
# # %pip install -e "/path/to/jaxseg[notebooks]"

# %%
import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxseg import ops
from jaxseg.commands.demo import SMALL_MASK_RCNN
from jaxseg.models.mask_rcnn import MaskRCNNConfig

on_cpu = jax.default_backend() == "cpu"
print("JAX", jax.__version__, jax.devices())

# %% [markdown]
# ## How to measure
#
# - JAX returns before the device is done: `jax.block_until_ready` waits for the result. - The
# first call of a jitted function compiles it. `lower(...).compile()` does that alone, so that
# both   times are measured apart. - The median of several calls is not moved by a single slow
# one.


# %%
def run_seconds(function, *inputs):
    """Return the median time of 5 to 100 calls, after one that is not counted."""
    jax.block_until_ready(function(*inputs))
    seconds = []
    while len(seconds) < 5 or (len(seconds) < 100 and sum(seconds) < 1):
        started = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def compile_and_run_seconds(function, *inputs):
    """Return the compile time and the median time of a call."""
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*inputs).compile()
    return time.perf_counter() - started, run_seconds(compiled, *inputs)


# %% [markdown]
# ## Eager and jit
#
# Without `jit`, each primitive is a call of its own, and its result goes to memory. Compiled
# together, they are fused. The operations work on one image; the inputs are random boxes, some of
# them objects.

# %%
num_images, num_boxes, num_objects, image_side = (
    (4, 1000, 20, 512) if on_cpu else (16, 4000, 100, 1024)
)
rng = np.random.default_rng(0)


def random_boxes(*shape):
    """Return boxes with sides of 16 to 128 pixels."""
    corner = rng.uniform(0, image_side - 128, (*shape, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(16, 128, corner.shape)], axis=-1)
    return jnp.asarray(boxes, jnp.float32)


boxes, objects = random_boxes(num_images, num_boxes), random_boxes(num_images, num_objects)
scores = jnp.asarray(rng.random((num_images, num_boxes)), jnp.float32)

operations: dict[str, tuple[Any, Any]] = {  # functions and their inputs, for all images
    "box_iou": (ops.box_iou, (boxes, objects)),
    "encode_boxes": (ops.encode_boxes, (boxes, boxes[:, ::-1])),
    "nms": (functools.partial(ops.nms, iou_threshold=0.5), (boxes, scores)),
}


# %%
def grouped_bars(axis, times, title):
    """Draw a group of bars, in milliseconds, for each row `{name: {variant: seconds}}`."""
    variants = list(next(iter(times.values())))
    for number, variant in enumerate(variants):
        place = np.arange(len(times)) + (number - (len(variants) - 1) / 2) * 0.8 / len(variants)
        values = [1e3 * row[variant] for row in times.values()]
        bars = axis.bar(place, values, 0.8 / len(variants), label=variant)
        axis.bar_label(bars, fmt=lambda ms: f"{ms:.2g}" if ms < 10 else f"{ms:.0f}", fontsize=8)
    axis.set_xticks(np.arange(len(times)), list(times))
    axis.set(title=title, ylabel="ms", yscale="log")
    axis.margins(y=0.15)
    axis.legend()


# %%
times = {}
for name, (operation, inputs) in operations.items():
    first_image = [x[0] for x in inputs]
    compile_time, jit = compile_and_run_seconds(operation, *first_image)
    times[name] = {
        "eager": run_seconds(operation, *first_image),
        "jit": jit,
        "compile": compile_time,
    }

figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
grouped_bars(axis, times, f"one image, {num_boxes} boxes")

# %% [markdown]
# ## vmap
#
# `jax.vmap` turns a function of one image into one of a batch: one program for all images, where
# a Python loop starts one for each. A loop inside the function, as NMS has, runs until the last
# image is done.

# %%
times = {}
for name, (operation, inputs) in operations.items():
    per_image = [[x[i] for x in inputs] for i in range(num_images)]
    jitted = jax.jit(operation)

    def loop(per_image, jitted=jitted):
        return [jitted(*image) for image in per_image]

    times[name] = {
        "loop over jit": run_seconds(loop, per_image),
        "jit of vmap": compile_and_run_seconds(jax.vmap(operation), *inputs)[1],
    }

figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
grouped_bars(axis, times, f"{num_images} images, {num_boxes} boxes each")

# %% [markdown]
# ## RoIAlign
#
# Each bin is the mean of S x S samples. S is `sampling_ratio`: 1 and 2 (torchvision) are unrolled
# into one sum; 0 takes as many samples as the bin has cells (Detectron2) and needs a loop.
# Training also needs the gradient of the feature maps.

# %%
num_rois, channels = (100, 64) if on_cpu else (512, 256)
pyramid = {
    stride: jnp.asarray(rng.normal(size=(image_side // stride,) * 2 + (channels,)), jnp.float32)
    for stride in (4, 8, 16, 32)
}
rois = boxes[0, :num_rois]


def pool(pyramid, rois, sampling_ratio):
    return ops.multilevel_roi_align(
        pyramid, rois, output_size=(7, 7), sampling_ratio=sampling_ratio, aligned=True
    )


def pool_gradient(pyramid, rois, sampling_ratio):
    return jax.grad(lambda maps: pool(maps, rois, sampling_ratio).sum())(pyramid)


# %%
times, compile_times = {}, {}
for ratio in (1, 2, 0):
    forward = functools.partial(pool, sampling_ratio=ratio)
    gradient = functools.partial(pool_gradient, sampling_ratio=ratio)
    measured = [compile_and_run_seconds(f, pyramid, rois) for f in (forward, gradient)]
    times[f"S = {ratio}"] = {"forward": measured[0][1], "gradient": measured[1][1]}
    compile_times[f"S = {ratio}"] = {"forward": measured[0][0], "gradient": measured[1][0]}

figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
grouped_bars(axes[0], times, f"{num_rois} RoIs, {channels} channels: a call")
grouped_bars(axes[1], compile_times, "compilation")

# %% [markdown]
# The level of each box is chosen by index: the cells of all maps are copied into one list, and
# each RoI reads its own map's part. The other way pools all boxes from every map and selects
# afterwards: four times the samples, but no copy. Both give the same features.


# %%
def pool_all_levels(pyramid, rois):
    level = ops.assign_levels(rois, list(pyramid), 224.0, 4)
    pooled = [
        ops.roi_align(features, rois, output_size=(7, 7), spatial_scale=1 / stride, aligned=True)
        for stride, features in pyramid.items()
    ]
    return jnp.stack(pooled)[level, jnp.arange(len(rois))]


by_index = functools.partial(pool, sampling_ratio=2)
np.testing.assert_allclose(by_index(pyramid, rois), pool_all_levels(pyramid, rois), atol=1e-4)
times = {}
for count in (10, 100, 1000):
    times[f"{count} RoIs"] = {
        "by index": compile_and_run_seconds(by_index, pyramid, boxes[0, :count])[1],
        "all levels": compile_and_run_seconds(pool_all_levels, pyramid, boxes[0, :count])[1],
    }

figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
grouped_bars(axis, times, f"{channels} channels, S = 2")

# %% [markdown]
# ## A whole model, float32 and bfloat16
#
# `compute_dtype="bfloat16"` runs the layers with half the bits; parameters, boxes and losses stay
# float32. GPUs, TPUs and some CPUs have units for it, other CPUs emulate it.

# %%
config = SMALL_MASK_RCNN if on_cpu else MaskRCNNConfig()
shape = (2, 128, 128, 3) if on_cpu else (8, 800, 1344, 3)
images = jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)
image_size = jnp.tile(jnp.asarray(shape[1:3], jnp.int32), (shape[0], 1))
variables = jax.jit(config.build().init, static_argnums=1)(jax.random.key(0), shape)

rows = {}
for dtype in ("float32", "bfloat16"):
    model = dataclasses.replace(config, compute_dtype=dtype).build()
    rows[dtype] = compile_and_run_seconds(model.predict, variables, images, image_size)
    compile_time, seconds = rows[dtype]
    print(f"{dtype:9} compile {compile_time:5.1f} s, predict {shape[0] / seconds:6.1f} images/s")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for axis, column, title in zip(axes, (0, 1), ("compilation", "prediction"), strict=True):
    bars = axis.bar(list(rows), [row[column] for row in rows.values()])
    axis.bar_label(bars, fmt="%.3g")
    axis.set(title=title, ylabel="s")
    axis.margins(y=0.15)

# %% [markdown]
# ## When compilation pays
#
# A compiled function is used many times: in a training of 90,000 steps the compilation is
# nothing, for a single image it is most of the time. A new shape is a new compilation, so jaxseg
# pads images to a few sizes (buckets) and objects to a fixed number of slots. The commands also
# keep compiled programs on the disk between runs.

# %%
compile_time, seconds = rows["float32"]
calls = np.geomspace(1, 1e5, 50)
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.semilogx(calls, compile_time / (compile_time + calls * seconds))
_ = axis.set(title="float32 prediction", xlabel="calls", ylabel="share of compilation", ylim=(0, 1))
