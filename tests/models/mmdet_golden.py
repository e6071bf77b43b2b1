"""What MMDetection recorded of a whole model: weights, pixels, ground truth and every stage."""

import functools
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import zoo
from jaxseg.nn.freezing import merge_frozen
from jaxseg.types import IGNORED, Batch
from tests.goldens import load_model


class Golden:
    """A golden with its weights loaded, and the prediction, computed once.

    Args:
        shared: the folder of shared files.
        name: the golden's name.
        make_config: makes the model's config of what the golden says about itself.
        module: the module of the model, with its function `_predict`.
        layers: makes the model's layers of its config.
    """

    def __init__(
        self,
        shared: Any,
        name: str,
        make_config: Callable[[dict], Any],
        module: ModuleType,
        layers: Callable[[Any], nn.Module],
    ):
        self.state, self.meta, self.arrays = load_model(shared, name, "models")
        self.config = make_config(self.meta)
        self.module, self.net = module, layers(self.config)
        self.variables = zoo.load_mmdet(self.state, self.config)
        self.sizes = np.asarray(self.meta["sizes"], np.int32)
        x = self.arrays["input_batch"].transpose(0, 2, 3, 1)
        pixels = self.config.pixels
        self.images = (x * np.asarray(pixels.std) + np.asarray(pixels.mean)).astype(np.float32)

    def __getitem__(self, key):
        return self.arrays[key]

    def unpacked(self, name):
        """Return an array of bits with its shape."""
        shape = self.meta["packed"][name]
        return np.unpackbits(self[name])[: np.prod(shape)].reshape(shape).astype(bool)

    def per_image(self, name):
        """Return the arrays of all images, `name` with their numbers."""
        return [self[name.format(i)] for i in range(len(self.sizes))]

    @functools.cached_property
    def prediction(self):
        """Return the detections, and the output of every layer."""

        def run(variables, images, sizes):
            predict = nn.apply(self.module._predict, self.net, capture_intermediates=True)
            return predict(merge_frozen(variables), images, sizes)

        found, captured = jax.jit(run)(self.variables, self.images, self.sizes)
        return found, captured["intermediates"]

    def batch(self, *, empty: Collection[int] = (), semantic_stride: int | None = None) -> Batch:
        """Return the recorded ground truth, with the masks of whole images.

        The images in `empty` have no objects, but keep their semantic map.
        """
        count, (height, width) = len(self.images), self.meta["batch"]
        slots = max(map(len, self.per_image("gt_labels{}")))
        boxes, labels = np.zeros((count, slots, 4), np.float32), np.zeros((count, slots), np.int32)
        masks = np.zeros((count, slots, height, width), bool)
        valid = np.zeros((count, slots), bool)
        semantic = np.full((count, height, width), IGNORED, np.uint8)
        for i, (h, w) in enumerate(self.sizes):
            if semantic_stride is not None:
                semantic[i, :h, :w] = self[f"gt_sem{i}"]
            if i not in empty:
                n = len(self[f"gt_labels{i}"])
                boxes[i, :n], labels[i, :n] = self[f"gt_boxes{i}"], self[f"gt_labels{i}"]
                masks[i, :n, :h, :w], valid[i, :n] = self.unpacked(f"gt_masks{i}"), True
        stride = semantic_stride
        return Batch(
            jnp.asarray(self.images),
            jnp.asarray(self.sizes),
            jnp.asarray(boxes),
            jnp.asarray(labels),
            jnp.asarray(valid),
            jnp.arange(count, dtype=jnp.int32),
            jnp.asarray(masks),
            semantic=None if stride is None else jnp.asarray(semantic[:, ::stride, ::stride]),
        )
