"""The models that are measured: their random variables and compiled programs, made only once."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from jaxseg.bench.inputs import random_batch
from jaxseg.bench.program import Program, compile_lowered, compile_program
from jaxseg.bench.settings import Settings
from jaxseg.bench.small import SMALL_MODELS
from jaxseg.heads.rcnn import TwoStageConfig
from jaxseg.model import Model, ModelConfig
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.parallel import lower_step
from jaxseg.training.step import TrainState, make_step, start_state
from jaxseg.types import Average, Batch, Losses

USED_SLOTS = "mask_slots_used"
"""The metric of a step that counts the mask head's slots in use, over all images."""
OUTPUT_LAYERS = ("logit", "delta", "kernel")
"""The layers without an activation, whose weights start small."""


class BenchModel:
    """One model at the sizes of a run."""

    def __init__(self, name: str, config: ModelConfig, settings: Settings):
        self.name, self.settings = name, settings
        self.config = dataclasses.replace(config, compute_dtype=settings.dtype)  # type: ignore[type-var]
        self.model = _count_mask_slots(self.config.build())
        self.optimizer = optax.sgd(1e-6, momentum=0.9)

    @functools.cached_property
    def variables(self) -> Any:
        """Return random variables (NumPy) with which the model detects something everywhere."""
        init = functools.partial(self.model.init, jax.random.key(0), (1, 64, 64, 3))
        return random_variables(jax.eval_shape(init))

    @functools.cached_property
    def batch(self) -> Batch:
        """Return a training batch (NumPy)."""
        s = self.settings
        return random_batch(
            self.model, s.batch, s.size, s.objects, s.slots, self.config.num_classes
        )

    @functools.cached_property
    def predict_program(self) -> Program:
        """Compile `predict`."""
        batch = self.batch
        return compile_program(
            self.model.predict,
            self.variables,
            batch.images,
            batch.image_size,
            options=self.settings.compiler_options,
        )

    @functools.cached_property
    def step_program(self) -> Program:
        """Compile the training step for one device."""
        return self.compile_step(1, self.batch)

    def compile_step(self, devices: int, batch: Batch) -> Program:
        """Compile the training step for a global batch on the first devices."""
        step = make_step(self.model, self.optimizer, seed=0)
        state = jax.eval_shape(lambda: start_state(self.variables, self.optimizer))
        return compile_lowered(
            lambda: lower_step(step, devices, state, batch), self.settings.compiler_options
        )

    def state(self) -> TrainState:
        """Return a new state before the first step."""
        return start_state(jax.tree.map(jax.numpy.asarray, self.variables), self.optimizer)

    @property
    def mask_slots(self) -> int:
        """Return the slots of an image for masks that are learned; of a cascade, each stage's."""
        if isinstance(self.config, TwoStageConfig):
            return int(self.config.box.batch_size_per_image * self.config.box.positive_fraction)
        assert isinstance(self.config, SOLOv2Config)
        return self.config.max_positives


class Models:
    """The models of a run by name."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._models: dict[str, BenchModel] = {}

    def __getitem__(self, name: str) -> BenchModel:
        """Return a model of `jaxseg.zoo.MODELS` or of `SMALL_MODELS`; ValueError for others."""
        if name not in self._models:
            self._models[name] = BenchModel(name, find_config(name), self._settings)
        return self._models[name]


def find_config(name: str) -> ModelConfig:
    """Return the config of a model's name; ValueError for an unknown one."""
    from jaxseg import zoo

    if name in SMALL_MODELS:
        return SMALL_MODELS[name]
    if name not in zoo.MODELS:
        raise ValueError(f"unknown model {name}: choose from {', '.join(zoo.MODELS)}")
    return zoo.MODELS[name].config


def random_variables(shapes: Any) -> Any:
    """Return random arrays (NumPy, He initialisation) for a model's variables.

    They are not those of `init`, which would have to be compiled. The last norm of each residual
    block is scaled down, since a sum of many random branches grows without bound. Some classes are
    likely everywhere: what follows the class scores, such as NMS and the masks of 100 detections,
    has work then.
    """
    rng, variables = np.random.default_rng(0), {}
    for path, leaf in traverse_util.flatten_dict(dict(shapes)).items():
        layer, kind = path[-2:]
        if kind == "kernel":
            fan_in = leaf.size // leaf.shape[-1]
            std = 0.01 if layer in OUTPUT_LAYERS else (2 / fan_in) ** 0.5
            value = rng.standard_normal(leaf.shape, np.float32) * np.float32(std)
        else:
            value = np.full(leaf.shape, kind in ("scale", "var"), np.float32)
        if kind == "scale" and path[1] == "backbone" and layer in ("norm2", "norm3"):
            value *= np.float32(0.3)
        if layer == "logit" and kind == "bias" and ("box_head" in path[1] or path[1] == "head"):
            value = _favour_classes(leaf.shape[0], low=-4.0, high=-1.0)
        variables[path] = value
    return traverse_util.unflatten_dict(variables)


def _favour_classes(count: int, low: float, high: float) -> np.ndarray:
    """Return biases of class logits of which the first few are high. The background's is last."""
    return np.where(np.arange(count) < min(5, count - 1), high, low).astype(np.float32)


def _count_mask_slots(model: Model) -> Model:
    """Let the losses of a model also count the slots of the first mask term that are in use."""

    def loss(variables: Any, batch: Batch, key: jax.Array, /) -> Losses:
        losses = model.loss(variables, batch, key)
        used = [term.count for name, term in losses.terms.items() if name.endswith("mask")]
        if not used:
            return losses
        metric = {USED_SLOTS: Average(used[0], jax.numpy.ones_like(used[0]))}
        return losses._replace(metrics={**losses.metrics, **metric})

    return model._replace(loss=loss)
