"""Restore trained models from checkpoints, and predict on the images of a source."""

import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import data, evaluation
from jaxseg.distributed import process_count, process_index
from jaxseg.experiment import Experiment, from_json
from jaxseg.model import Model, Variables
from jaxseg.parallel import pmap_predict, replicate_local
from jaxseg.training.checkpoint import open_checkpoints
from jaxseg.training.loop import abstract_state
from jaxseg.training.step import TrainState

EVAL_BATCH_PER_DEVICE = 4
"""Images that a device predicts on at once."""


class TrainedModel(NamedTuple):
    """A model with the variables of a checkpoint and its experiment."""

    experiment: Experiment
    categories: Sequence[data.Category]
    """The categories of the model's labels, in their order."""
    model: Model
    variables: Variables
    step: int


def restore(
    workdir: pathlib.Path,
    step: int | None = None,
    *,
    ema: bool = True,
    allow_modules: Collection[str] = (),
) -> TrainedModel:
    """Return the model of a run's checkpoint.

    Args:
        workdir: the workdir of the run.
        step: the step of the checkpoint, None for the newest.
        ema: use the EMA of the parameters where the run keeps one.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.

    Raises:
        FileNotFoundError: `workdir` holds no checkpoint.
        ValueError: there is no checkpoint at `step`, none can be read, or it names a config class
            that is not allowed.
    """
    with open_checkpoints(workdir) as checkpoints:
        metadata = checkpoints.metadata()
        try:
            experiment = from_json(metadata["experiment"], allow_modules)
            categories = [data.Category(**category) for category in metadata["categories"]]
            data.check_category_names(categories)
        except ValueError as error:
            raise ValueError(f"{workdir}: {error}") from error
        state = checkpoints.restore(state_shapes(experiment), step)
    variables = variables_of(state, ema=ema)
    return TrainedModel(
        experiment, categories, experiment.model.build(), variables, int(state.step)
    )


def state_shapes(experiment: Experiment) -> TrainState:
    """Return the shapes and dtypes of the state of an experiment's run."""
    image_shape = (1, *experiment.data.buckets[0], 3)
    return abstract_state(experiment.model.build(), experiment.train, image_shape)


def variables_of(state: TrainState, *, ema: bool) -> Variables:
    """Return a state's variables as NumPy arrays, with the EMA of the parameters if `ema`."""
    params = state.ema if ema and state.ema is not None else state.params
    return jax.tree.map(np.asarray, {"params": params, **state.model_state})


class Predictor:
    """Predicts with one model on all devices of this process; compiles once for each bucket."""

    def __init__(self, model: Model):
        self._devices = jax.local_device_count()
        self._predict_batch = pmap_predict(model, self._devices)

    def predict(
        self, variables: Variables, source: data.Source, config: data.DataConfig
    ) -> Iterator[evaluation.Prediction]:
        """Yield the predictions on every image of a source.

        The images come bucket by bucket, in the source's order within each. With several
        processes, each predicts on its share of the images.
        """
        variables = replicate_local(variables, self._devices)
        batches = data.eval_batches(
            source,
            config,
            batch_size=EVAL_BATCH_PER_DEVICE * self._devices,
            shard_index=process_index(),
            shard_count=process_count(),
        )
        for batch in batches:
            detections = self._predict_batch(variables, batch.images, batch.image_size)
            yield from evaluation.to_predictions(detections, batch)
