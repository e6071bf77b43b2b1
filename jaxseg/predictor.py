"""What is done with a trained model: its figures on a data set, its predictions on images."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import data, evaluation
from jaxseg.distributed import process_count, process_index
from jaxseg.experiment import Experiment, from_json
from jaxseg.model import Model, Variables
from jaxseg.parallel import pmap_predict, replicate_local
from jaxseg.training.checkpoint import open_checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.step import TrainState, init_state

EVAL_BATCH_PER_DEVICE = 4


class TrainedModel(NamedTuple):
    """A model out of a checkpoint, with all that is needed to use it."""

    experiment: Experiment
    categories: Sequence[data.Category]
    model: Model
    variables: Variables
    step: int


def load(workdir: pathlib.Path, step: int | None = None, *, average: bool = True) -> TrainedModel:
    """The checkpoint of a run at `step`, or the newest. Its parameters are their moving average,
    where the run keeps one and `average` is asked for."""
    with open_checkpoints(workdir) as checkpoints:
        record = checkpoints.experiment()
        experiment = from_json(record["experiment"])
        state = checkpoints.restore(state_shapes(experiment), step)
    categories = [data.Category(**category) for category in record["categories"]]
    variables = variables_of(state, average=average)
    return TrainedModel(
        experiment, categories, experiment.model.build(), variables, int(state.step)
    )


def state_shapes(experiment: Experiment) -> TrainState:
    """The state of a run, as shapes and dtypes."""
    model, config = experiment.model.build(), experiment.train
    optimizer = make_optimizer(config.optimizer, config.steps)
    shape, ema = (1, *experiment.data.buckets[0], 3), config.ema_decay is not None
    return jax.eval_shape(lambda: init_state(model, optimizer, shape, config.seed, ema=ema))


def variables_of(state: TrainState, *, average: bool) -> Variables:
    """What to predict with, on the host."""
    params = state.ema if average and state.ema is not None else state.params
    return jax.tree.map(np.asarray, {"params": params, **state.model_state})


Predict = Callable[[Variables, data.Source, data.DataConfig], Iterator[evaluation.Prediction]]


def make_predict(model: Model) -> Predict:
    """A function that predicts on every image of a source, in its order within each canvas, on all
    devices of this host; of several hosts each does its part of the images."""
    devices = jax.local_device_count()
    predict_batch = pmap_predict(model, devices)

    def predict(
        variables: Variables, source: data.Source, config: data.DataConfig
    ) -> Iterator[evaluation.Prediction]:
        variables = replicate_local(variables, devices)
        batches = data.eval_batches(
            source,
            config,
            batch_size=EVAL_BATCH_PER_DEVICE * devices,
            shard_index=process_index(),
            shard_count=process_count(),
        )
        for batch in batches:
            detections = predict_batch(variables, batch.images, batch.image_size)
            yield from evaluation.to_predictions(
                detections,
                batch.image_size,
                batch.original_size,
                batch.image_id,
                batch.valid,
                bucket=(batch.images.shape[1], batch.images.shape[2]),
            )

    return predict
