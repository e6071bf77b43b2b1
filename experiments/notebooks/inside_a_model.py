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
# # Inside a model
#
# The stages of Mask R-CNN and SOLOv2, one picture each, on a generated scene. Nothing is trained,
# so all cells together take about a minute. The text says the shapes: B images, K anchors or
# cells, N slots for objects. The pages "Inside Mask R-CNN" and "Inside SOLOv2" of the
# documentation describe every setting.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn

from jaxseg import data, ops
from jaxseg.commands.demo import MASK_RCNN, SMALL_MASK_RCNN, SMALL_SOLOV2, SOLOV2
from jaxseg.heads import rpn
from jaxseg.models import solov2
from jaxseg.models.mask_rcnn import MaskRCNN

COLORS = [plt.get_cmap("tab10")(number) for number in range(10)]


def draw(axis, image, boxes=(), colors=("white",), title="", width=1.5):
    """Show an image with boxes (`xyxy`) over it; the colours repeat."""
    height, columns = image.shape[:2]
    axis.imshow(image, extent=(0, columns, height, 0))
    for number, (x1, y1, x2, y2) in enumerate(np.asarray(boxes)):
        color = colors[number % len(colors)]
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=width))
    axis.set(title=title, xlim=(0, columns), ylim=(height, 0), xticks=[], yticks=[])


# %% [markdown]
# ## A batch
#
# A batch has static shapes: images are padded to one size, and objects to N slots, of which
# `valid` marks the used ones. So the compiled program never changes, whatever the images hold.

# %%
config = SMALL_MASK_RCNN
model = config.build()
source = data.Shapes(seed=3).open("train")
batches = data.train_batches(source, MASK_RCNN.data, model.targets, batch_size=1, seed=3)
batch = jax.tree.map(jnp.asarray, next(batches))
batches.close()
for name in ("images", "image_size", "boxes", "labels", "valid", "masks"):
    print(f"{name:10} {getattr(batch, name).dtype!s:8} {getattr(batch, name).shape}")

# The pictures show the first image and its objects.
image, used = np.asarray(batch.images[0]), np.asarray(batch.valid[0])
objects = np.asarray(batch.boxes[0])[used]
figure, axis = plt.subplots(figsize=(3.2, 3.4), layout="constrained")
draw(axis, image, objects, COLORS, f"{used.sum()} objects in {len(used)} slots", 2)

# %% [markdown]
# ## Mask R-CNN: feature pyramid
#
# `nn.apply(stage, module)` runs any stage with the model's layers. The backbone and the FPN make
# the maps P2 to P6, with strides of 4 to 64 pixels and 64 channels in this small model. The
# pictures show each map's mean over the channels, from random weights.

# %%
variables = jax.jit(model.init, static_argnums=1)(jax.random.key(0), batch.images.shape)
features = nn.apply(lambda net, *inputs: net.features(*inputs, train=False), MaskRCNN(config))
pyramid = jax.jit(features)(variables, batch.images, batch.image_size, batch.image_size)

figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
for axis, (stride, level) in zip(axes, pyramid.items(), strict=True):
    axis.imshow(level[0].mean(-1))
    axis.set(title=f"stride {stride}\n{list(level.shape)}", xticks=[], yticks=[])

# %% [markdown]
# ## Anchors
#
# Every cell of every map has three anchors: boxes of one area and the aspect ratios 1/2, 1 and 2.
# The pictures show the map's cells as points and the anchors of one cell.

# %%
anchors = rpn.make_anchors(config.rpn, pyramid, batch.image_size)
print("boxes", anchors.boxes.shape, "of the levels", anchors.level_sizes)

figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
first = 0
for axis, (stride, level), count in zip(axes, pyramid.items(), anchors.level_sizes, strict=True):
    rows, columns = level.shape[1:3]
    cell = first + 3 * ((rows // 2) * columns + columns // 2)  # its first anchor
    draw(axis, image, anchors.boxes[0, cell : cell + 3], COLORS, f"stride {stride}: {count}")
    y, x = np.mgrid[:rows, :columns] * stride
    axis.plot(x.ravel(), y.ravel(), "w.", ms=1)
    first += count

# %% [markdown]
# ## Matching
#
# `ops.match` compares all anchors with all objects, by a matrix of IoUs `[K, N]`. An anchor is
# positive if it overlaps an object by at least 0.7, or if no anchor overlaps that object more; it
# is negative below 0.3. Those between learn nothing. Colours name the object of a positive
# anchor.

# %%
iou = ops.box_iou(anchors.boxes[0], batch.boxes[0])
matches = ops.match(
    iou, batch.valid[0], high=0.7, low=0.3, min_pos_iou=0.0, anchor_valid=anchors.valid[0]
)
positive, negative = np.asarray(matches.positive), np.asarray(matches.negative)
neither = np.asarray(anchors.valid[0]) & ~positive & ~negative
print("IoU", iou.shape, "positive", positive.sum(), "negative", negative.sum())

figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
draw(axes[0], image, objects, COLORS, "objects", 2)
boxes, gt_index = np.asarray(anchors.boxes[0]), np.asarray(matches.gt_index)
colors = [COLORS[index] for index in gt_index[positive]]
draw(axes[1], image, boxes[positive], colors, f"{positive.sum()} positive anchors")
draw(axes[2], image, boxes[neither], ["white"], f"{neither.sum()} neither", 0.3)

# %% [markdown]
# ## Proposals
#
# The RPN gives each anchor a logit and four deltas. `generate_proposals` decodes the best anchors
# of each level, removes duplicates by NMS, and keeps the best of all levels. A trained RPN is
# imitated here: its logits grow with the IoU, and its deltas go most of the way to the object,
# both with noise.

# %%
noise = np.random.default_rng(0)
best = jnp.where(batch.valid[0], iou, 0).max(1)
gt_boxes = batch.boxes[0][jnp.where(batch.valid[0], iou, 0).argmax(1)]
deltas = 0.8 * ops.encode_boxes(gt_boxes, anchors.boxes[0]) + noise.normal(0, 0.05, boxes.shape)
deltas = jnp.where(best[:, None] > 0.2, deltas, 0)
logits = 10 * best - 5 + noise.normal(0, 0.5, best.shape)
output = rpn.RPNOutput(logits[None], deltas[None])

decoded = ops.decode_boxes(deltas, anchors.boxes[0])
top = np.argsort(-np.asarray(logits))[:60]
proposals = rpn.generate_proposals(config.rpn, output, anchors, batch.image_size, train=False)
print("proposals", proposals.boxes.shape, "used", proposals.valid.sum(1))

figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
draw(axes[0], image, boxes[top], ["white"], "60 best anchors", 0.8)
draw(axes[1], image, decoded[top], ["white"], "the same, decoded", 0.8)
draw(axes[2], image, proposals.boxes[0, :12], COLORS, "12 best proposals")

# %% [markdown]
# ## A level for each RoI
#
# A RoI (region of interest) is a box whose features are pooled. Large ones are pooled from coarse
# maps: a box with a side of 224 pixels from stride 16, one of twice that side from the next
# level.

# %%
strides, sides = [4, 8, 16, 32], np.geomspace(56, 896, 9)
canvas = np.full((900, 900, 3), 40, np.uint8)
squares = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
level = ops.assign_levels(jnp.asarray(squares, jnp.float32), strides, 224.0, 4)
for side, stride in zip(sides, np.asarray(strides)[level], strict=True):
    print(f"side {side:4.0f} -> stride {stride:2}, {side / stride:4.1f} cells of it")

figure, axis = plt.subplots(figsize=(3.6, 3.8), layout="constrained")
draw(axis, canvas, squares, [COLORS[index] for index in level], "one colour for each level")

# %% [markdown]
# ## RoIAlign
#
# RoIAlign turns a box of any size into a fixed grid of bins. A bin is the mean of 2 x 2 samples,
# each interpolated from four cells. Here the map is the image itself, so that the result can be
# seen: `[R, 14, 14, 3]` for R boxes.

# %%
pixels = jnp.asarray(image, jnp.float32)
pooled = ops.roi_align(
    pixels, jnp.asarray(objects), output_size=(14, 14), spatial_scale=1.0, aligned=True
)
print("map", pixels.shape, "boxes", objects.shape, "pooled", pooled.shape)

largest = int(np.argmax(np.prod(objects[:, 2:] - objects[:, :2], axis=1)))
x1, y1, x2, y2 = objects[largest]
samples = (np.arange(2 * 14) + 0.5) / (2 * 14)  # along an axis, as fractions of the box
shown = [largest, *(i for i in range(len(objects)) if i != largest)][:4]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
draw(axes[0], image, objects[[largest]], ["white"], "samples of a box")
x, y = np.meshgrid(x1 + samples * (x2 - x1), y1 + samples * (y2 - y1))
axes[0].plot(x.ravel(), y.ravel(), "w.", ms=1)
for axis, number in zip(axes[1:], shown, strict=False):
    draw(axis, np.asarray(pooled[number]).astype(np.uint8), title=f"object {number}")

# %% [markdown]
# ## SOLOv2: a grid and its targets
#
# SOLOv2 has no boxes. It lays grids of S x S cells over the image, one for each level, and an
# object belongs to the grids that are for its size. The cells around its centre of mass learn its
# class and a kernel, which makes its mask. `make_targets` returns the cells of all grids as one
# axis of K.

# %%
solo = SMALL_SOLOV2
batches = data.train_batches(source, SOLOV2.data, solo.build().targets, batch_size=1, seed=3)
batch = jax.tree.map(jnp.asarray, next(batches))
batches.close()
image = np.asarray(batch.images[0])
targets = solov2.make_targets(solo, batch, batch.image_size)
print("positive", targets.positive.shape, "cells:", targets.positive.sum())
print("pairs of a cell and an object", targets.cell.shape, "used:", targets.valid.sum())

figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
first = 0
for axis, grid, (low, high) in zip(axes, solo.num_grids, solo.scale_ranges, strict=True):
    cells = slice(first, first + grid**2)
    label = np.where(targets.positive[0, cells], targets.label[0, cells], np.nan)
    draw(axis, image // 2, title=f"{grid} x {grid} cells\n{low:.0f} to {high:.0f} pixels")
    axis.imshow(
        label.reshape(grid, grid), cmap="tab10", vmin=0, vmax=9, extent=(0, 256, 256, 0), alpha=0.9
    )
    first += grid**2

# %% [markdown]
# ## Points NMS
#
# Neighbouring cells find the same object. `ops.points_nms` sets a cell's score to 0 if the cell
# above, to the left or above left has a higher one: each maximum stays, with some of its
# neighbours to the left and above. The scores `[S, S, C]` are imitated: a peak around each
# object's centre, on the first grid.

# %%
grid = solo.num_grids[0]
centers = np.asarray(batch.centers[0])[np.asarray(batch.valid[0])] / 256 * grid - 0.5
y, x = np.mgrid[:grid, :grid]
distance = (x[..., None] - centers[:, 0]) ** 2 + (y[..., None] - centers[:, 1]) ** 2
scores = jnp.asarray(np.exp(-distance / 3).max(-1), jnp.float32)[..., None]
kept = ops.points_nms(scores)
print("scores", scores.shape, "above 0.1:", (scores > 0.1).sum(), "after:", (kept > 0.1).sum())

figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), layout="constrained")
for axis, values, title in zip(axes, (scores, kept), ("scores", "after points NMS"), strict=True):
    axis.imshow(values[..., 0], vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])

# %% [markdown]
# ## Matrix NMS
#
# What is still double is found by the masks. `ops.matrix_nms` lowers each score by the overlap
# with better masks of the same class, all at once by one matrix of IoUs `[Q, Q]`, and removes
# nothing. Here are an object's mask, two that are moved by some cells, and that of another
# object.

# %%
masks = jnp.unpackbits(batch.masks[0], axis=-1).astype(bool)  # [N, H / 4, W / 4], sent as bits
order = np.argsort(-np.asarray(masks.sum((1, 2))))
mask, other = masks[order[0]], masks[order[1]]
candidates = jnp.stack([mask, jnp.roll(mask, 1, 1), jnp.roll(mask, -8, 1), other])
scores = jnp.asarray([0.9, 0.85, 0.8, 0.7])
decayed = ops.matrix_nms(candidates, jnp.zeros(4, jnp.int32), scores)
print("masks", candidates.shape, "scores", scores, "->", decayed.round(2))

figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), layout="constrained")
names = ("best", "moved by 1", "moved by 8", "another object")
for number, (axis, name) in enumerate(zip(axes, names, strict=True)):
    draw(axis, np.asarray(candidates[number]))
    axis.set_title(f"{name}\n{scores[number]:.2f} -> {decayed[number]:.2f}")
