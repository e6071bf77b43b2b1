"""Restore trained models from checkpoints, and predict on the images of a source."""

import collections
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg import data, evaluation
from jaxseg.distributed import process_count, process_index
from jaxseg.experiment import Experiment, from_json
from jaxseg.model import Model, Variables
from jaxseg.parallel import merge, pmap_predict, replicate_local
from jaxseg.training.checkpoint import open_checkpoints
from jaxseg.training.loop import abstract_state
from jaxseg.training.step import TrainState
from jaxseg.types import Detections, EvalBatch

EVAL_BATCH_PER_DEVICE = 4
"""Images that a device predicts on at once."""
BATCHES_IN_FLIGHT = 2
"""Batches that devices compute or threads convert. With two, neither waits for the other."""


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
        experiment, categories = parse_metadata(checkpoints.metadata(), workdir, allow_modules)
        state = checkpoints.restore(state_shapes(experiment), step)
    variables = variables_of(state, ema=ema)
    return TrainedModel(
        experiment, categories, experiment.model.build(), variables, int(state.step)
    )


def parse_metadata(
    metadata: Mapping[str, Any], path: pathlib.Path, allow_modules: Collection[str] = ()
) -> tuple[Experiment, list[data.Category]]:
    """Return the experiment and the categories that are stored with a model.

    `path` is where, for errors. Raises ValueError for a config class that is not allowed, and for
    names that are not valid Unicode.
    """
    try:
        experiment = from_json(metadata["experiment"], allow_modules)
        categories = [data.Category(**category) for category in metadata["categories"]]
        data.check_category_names(categories)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return experiment, categories


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

    def replicate(self, variables: Variables) -> Variables:
        """Copy variables to the devices of this process, for `predict_batches`."""
        return replicate_local(variables, self._devices)

    def predict(
        self, variables: Variables, source: data.Source, config: data.DataConfig
    ) -> Iterator[evaluation.Prediction]:
        """Yield the predictions on every image of a source.

        The images come bucket by bucket, in the source's order within each. With several
        processes, each predicts on its share of the images.
        """
        yield from self.predict_batches(
            self.replicate(variables),
            source,
            config,
            EVAL_BATCH_PER_DEVICE,
            shard=(process_index(), process_count()),
        )

    def predict_batches(
        self,
        replicated: Variables,
        source: data.Source,
        config: data.DataConfig,
        batch_per_device: int,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[evaluation.Prediction]:
        """Yield predictions as `predict` does, from variables that `replicate` returned.

        A device predicts on `batch_per_device` images at once. Of the `shard`, `(i, n)`, every n-th
        image from number i on is predicted on.
        """
        batches = data.eval_batches(
            source,
            config,
            batch_size=batch_per_device * self._devices,
            shard_index=shard[0],
            shard_count=shard[1],
        )
        found = (
            (self._predict_batch(replicated, batch.images, batch.image_size), batch)
            for batch in batches
        )
        yield from overlap(found)


def overlap(found: Iterable[tuple[Detections, EvalBatch]]) -> Iterator[evaluation.Prediction]:
    """Yield the predictions of batches in their order, while devices compute the next batch.

    Threads wait for the devices, copy their results and encode the masks of several images at
    once. At most `BATCHES_IN_FLIGHT` batches are in memory.

    Args:
        found: what `pmap_predict` returns for each batch, and the batch. If getting the next one
            raises an exception, the predictions on those before are yielded first.

    Raises:
        Exception: what a thread raised, at the image's turn; a note names the image.
    """
    batches, error = iter(found), None
    in_flight: collections.deque[list[Future[evaluation.Prediction]]] = collections.deque()
    pool = ThreadPoolExecutor(_usable_cores(), thread_name_prefix="predictions")
    try:
        while True:
            try:
                detections, batch = next(batches)
            except StopIteration:
                break
            except Exception as raised:
                error = raised
                break
            on_host = pool.submit(merge, detections)
            images = np.flatnonzero(batch.valid).tolist()
            in_flight.append([pool.submit(_convert, on_host, batch, i) for i in images])
            if len(in_flight) == BATCHES_IN_FLIGHT:
                yield from (prediction.result() for prediction in in_flight.popleft())
        for predictions in in_flight:
            yield from (prediction.result() for prediction in predictions)
        if error is not None:
            raise error
    finally:
        # Not waiting: after a notice to stop, a device may compute for long.
        pool.shutdown(wait=False, cancel_futures=True)


def _convert(on_host: Future[Detections], batch: EvalBatch, i: int) -> evaluation.Prediction:
    """Return the prediction of image `i` of a batch, once its detections are on the host."""
    detections = on_host.result()
    try:
        return evaluation.image_prediction(detections, batch, i)
    except Exception as error:
        error.add_note(f"(image id {batch.image_id[i]})")
        raise


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone
    return (len(affinity(0)) if affinity else os.cpu_count()) or 1
