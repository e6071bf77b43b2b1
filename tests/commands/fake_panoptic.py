"""A panoptic model that finds the same in every image, and compiles in no time."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxseg.data import Category, DataConfig, Shapes
from jaxseg.experiment import Experiment
from jaxseg.model import Model
from jaxseg.predictor import TrainedModel
from jaxseg.training.loop import TrainConfig
from jaxseg.types import Detections, HeuristicMerging, MaskFrame, PanopticMerging, TargetSpec
from tests.tiny import TinyBackboneConfig

SCENES = Shapes(size=64, train_images=2, val_images=3, stuff=True)


@dataclasses.dataclass(frozen=True)
class FakePanopticConfig:
    """A ring and a disc, and the rest striped on the left, dotted on the right."""

    num_classes: int = 5
    num_stuff_classes: int = 3
    backbone: Any = TinyBackboneConfig()
    score_threshold: float = 0.0

    def build(self) -> Model:
        return Model(_init, _loss, self._predict, TargetSpec(semantic_stride=4))

    def _predict(self, variables, images, image_size):
        batch, height, width, _ = images.shape
        boxes = jnp.asarray([[32, 16, 60, 44], [8, 0, 36, 20], [0, 0, 8, 8]], jnp.float32)
        channels = jnp.asarray([1, 1, 1, 2])[jnp.arange(width // 4) * 4 // (width // 4)]
        semantic = jnp.eye(4)[channels] * variables["params"]["w"]
        return Detections(
            boxes=jnp.tile(boxes, (batch, 1, 1)),
            scores=jnp.tile(jnp.asarray([0.9, 0.8, 0.2]), (batch, 1)),
            labels=jnp.tile(jnp.asarray([4, 0, 1]), (batch, 1)),
            valid=jnp.ones((batch, 3), bool),
            masks=jnp.ones((batch, 3, 4, 4)),
            mask_frame=MaskFrame.GRID_SAMPLE,
            semantic=jnp.tile(semantic, (batch, height // 4, 1, 1)),
            panoptic_merging=PanopticMerging(self.num_classes, HeuristicMerging(min_stuff_area=9)),
        )


def _init(key, batch_or_shape):
    return {"params": {"w": jnp.ones(())}}


def _loss(variables, batch, key):
    raise NotImplementedError


EXPERIMENT = Experiment(
    model=FakePanopticConfig(),
    data=DataConfig(source=SCENES, buckets=((64, 64),)),
    train=TrainConfig(steps=2, batch_size=2),
)


def trained(categories: list[Category] | None = None) -> TrainedModel:
    """Return the model as from a checkpoint, with the scenes' categories by default."""
    categories = categories or list(SCENES.open("val").categories)
    model = EXPERIMENT.model.build()
    return TrainedModel(EXPERIMENT, categories, model, _init(None, None), 2)
