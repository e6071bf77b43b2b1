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
# # First steps
#
# Train a small Mask R-CNN on generated scenes, look at its curves, load it, predict and evaluate.
# Nothing is downloaded. On two CPU cores all cells take a few minutes, most of them training.

# %%
# On a hosted machine, install a checkout of jaxseg first ("[cuda,notebooks]" with a GPU,
# "[tpu,notebooks]" with a TPU), and restart the kernel:
# # %pip install -e "/path/to/jaxseg[notebooks]"

# %%
import json
import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt

import jaxseg
from jaxseg import data, visualize
from jaxseg.commands.demo import SMALL_MASK_RCNN
from jaxseg.commands.eval import evaluate
from jaxseg.commands.train import train
from jaxseg.experiment import Experiment
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig

print(jax.devices())

# %% [markdown]
# ## Data
#
# `Shapes` draws scenes of five classes with exact masks. Scene *i* of a split is a pure function
# of the seed, the split and *i*, so the images need no files. `CocoFolder("my-data")` in its
# place reads images of your own.

# %%
scenes = data.Shapes(size=64, max_shapes=6)
source = scenes.open("train")
names = [category.name for category in source.categories]
print(f"{len(source)} scenes of {', '.join(names)}")

figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axis, example in zip(axes, (source[i] for i in (4, 8, 12)), strict=True):
    axis.imshow(
        visualize.draw_instances(example.image, example.boxes, example.labels, names, example.rles)
    )
    axis.set(title=f"{len(example.boxes)} objects", xticks=[], yticks=[])

# %% [markdown]
# An `Example` holds one image with its objects. Boxes are `xyxy` in pixels, masks are COCO's run
# lengths.

# %%
example = source[4]
print("image ", example.image.shape, example.image.dtype)
print("boxes ", example.boxes.shape, example.boxes[0])
print("labels", example.labels, "->", [names[label] for label in example.labels])
print("masks ", [rle["size"] for rle in example.rles or []])

# %% [markdown]
# ## An experiment
#
# An experiment is one frozen value: a model, its data, and how to train. This one has the demo's
# model. Its scenes are enlarged to 96 x 96 pixels, the size that images are padded to (bucket).

# %%
experiment = Experiment(
    model=SMALL_MASK_RCNN,
    data=data.DataConfig(
        source=scenes, buckets=((96, 96),), min_size=96, max_size=96, max_objects=8
    ),
    train=TrainConfig(
        steps=600,
        batch_size=8,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=50, weight_decay=1e-2
        ),
        log_every=20,
        checkpoint_every=200,
    ),
)

# %% [markdown]
# ## Training
#
# `train` is what `jaxseg train` runs: it batches, steps, logs and saves checkpoints in a
# *workdir*. The step is compiled once, before the first one. If a training is interrupted, the
# same call resumes it from the last checkpoint.

# %%
workdir = pathlib.Path(tempfile.mkdtemp()) / "first_steps"
train(experiment, workdir)

# %% [markdown]
# ## Curves
#
# `metrics.jsonl` in the workdir has one JSON object for each logged step; TensorBoard shows the
# same numbers. The loss is the sum of five terms: two of the region proposal network, two of the
# box head, and that of the masks.

# %%
records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
steps = [record["step"] for record in records]

figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
axes[0].plot(steps, [record["train/loss"] for record in records])
for term in ("rpn_class", "rpn_box", "box_class", "box", "mask"):
    axes[1].plot(steps, [record[f"train/{term}"] for record in records], label=term)
axes[1].legend(bbox_to_anchor=(1, 1), fontsize="small")
axes[2].plot(steps, [record["train/learning_rate"] for record in records])
for axis, title in zip(axes, ("loss", "its terms", "learning rate"), strict=True):
    axis.set(title=title, xlabel="step", ylim=(0, None))

# %% [markdown]
# ## Predict
#
# `jaxseg.load` needs nothing but the workdir, since a checkpoint stores its experiment. `predict`
# takes pixels, a file, a folder or a list of these. Its first call compiles the model. After so
# short a training the scores are low: those from 0.3 are shown.

# %%
detector = jaxseg.load(workdir)
unseen = scenes.open("val")
images = [unseen[i].image for i in range(3)]
predictions = detector.predict(images, threshold=0.3)
for instances in predictions:
    print(instances)

# %% [markdown]
# Ground truth beside prediction: an object and the prediction that finds it have one colour,
# missed objects and false predictions are red.

# %%
figure, axes = plt.subplots(3, 1, figsize=(8, 12.8), layout="constrained")
for axis, instances in zip(axes, predictions, strict=True):
    axis.imshow(visualize.draw_comparison(unseen, instances.prediction, names, threshold=0.3))
    axis.axis("off")

# %% [markdown]
# The arrays of `Instances` are in pixels of the given image, best score first. Select some of
# them by a slice, an index or a mask; `instances.draw()` draws them alone.

# %%
best = predictions[1][:2]
print(best.names, best.scores.round(2))
print(best.boxes.round(1))
print(best.masks.shape, best.masks.dtype, "pixels:", best.masks.sum((1, 2)))

# %% [markdown]
# ## Evaluate
#
# `evaluate` is what `jaxseg eval` runs: it predicts on the 200 scenes of the split `val`, which
# the training has not seen, and computes COCO's metrics with pycocotools. AP is the average
# precision over ten IoU thresholds from 0.50 to 0.95. The demo (`jaxseg demo`) trains 1,800 steps
# on larger scenes and reaches a mask AP of at least 0.5.

# %%
metrics = evaluate(workdir, workdir / "evaluation")
