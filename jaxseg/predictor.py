"""What is done with a trained model: its figures on a data set, its predictions on images."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg import data, evaluation, visualize
from jaxseg.experiment import Experiment, from_json
from jaxseg.model import Model, Variables
from jaxseg.parallel import (
    gather,
    host_count,
    host_index,
    parallel_predict,
    replicate_here,
)
from jaxseg.training.checkpoint import open_checkpoints
from jaxseg.training.loop import Validation
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.progress import say
from jaxseg.training.step import TrainState, init_state

EVAL_BATCH_PER_DEVICE = 4
OVERLAYS = 16
"""How many images of an evaluation are drawn."""
PICTURES = 4
"""How many of them a training shows among its curves."""


class Trained(NamedTuple):
    """A model out of a checkpoint, with all that is needed to use it."""

    experiment: Experiment
    categories: Sequence[data.Category]
    model: Model
    variables: Variables
    step: int


def load(workdir: pathlib.Path, step: int | None = None, *, average: bool = True) -> Trained:
    """The checkpoint of a run at `step`, or the newest. Its parameters are their moving average,
    where the run keeps one and `average` is asked for."""
    with open_checkpoints(workdir) as checkpoints:
        record = checkpoints.experiment()
        experiment = from_json(record["experiment"])
        state = checkpoints.restore(state_shapes(experiment), step)
    categories = [data.Category(**category) for category in record["categories"]]
    variables = variables_of(state, average=average)
    return Trained(experiment, categories, experiment.model.build(), variables, int(state.step))


def state_shapes(experiment: Experiment) -> TrainState:
    """The state of a run, as shapes and dtypes."""
    model, config = experiment.model.build(), experiment.train
    optimizer = make_optimizer(config.optimizer, config.steps)
    shape, ema = (1, *experiment.data.canvases[0], 3), config.ema_decay is not None
    return jax.eval_shape(lambda: init_state(model, optimizer, shape, config.seed, ema=ema))


def variables_of(state: TrainState, *, average: bool) -> Variables:
    """What to predict with, on the host."""
    params = state.ema if average and state.ema is not None else state.params
    return jax.tree.map(np.asarray, {"params": params, **state.model_state})


def evaluate(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    data_folder: pathlib.Path | None = None,
    split: str = "val",
    step: int | None = None,
    average: bool = True,
) -> dict[str, float | None]:
    """Box and mask AP of a checkpoint, the newest unless `step` is given; writes metrics,
    predictions and overlays.

    Returns the metrics as written to `out/metrics.json`.
    """
    trained = load(workdir, step, average=average)
    config = trained.experiment.data
    if data_folder is not None:
        config = dataclasses.replace(config, source=data.folder_config(data_folder))
    source = config.source.open(split)
    labels = _labels_in(source, trained.categories, split)

    say(f"evaluating step {trained.step} on {len(source)} images of split {split!r}")
    started = time.monotonic()
    predict = make_predict(trained.model)
    predictions = [_relabel(p, labels) for p in predict(trained.variables, source, config)]
    say(f"predicted in {time.monotonic() - started:.0f} s")
    results = gather_results(predictions, source)
    metrics = None
    if host_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.json").write_text(json.dumps(results))
        metrics = evaluation.evaluate(source.ground_truth(), results)
        draw_overlays(source, predictions[:OVERLAYS], out / "overlays")
        evaluation.write_metrics(metrics, out / "metrics.json")
        print(evaluation.format_table(metrics))
    return gather(metrics)[0]


def gather_results(
    predictions: Sequence[evaluation.Prediction], source: data.Source
) -> list[dict[str, Any]]:
    """The predictions of all hosts as a COCO result list."""
    own = evaluation.coco_results(predictions, [c.id for c in source.categories])
    return [result for part in gather(own) for result in part]


def _labels_in(source: data.Source, learned: Sequence[data.Category], split: str) -> np.ndarray:
    """The data's label of each of the model's classes, by name; -1 for those it lacks.

    Where both have the same list, its order counts, so that names may occur twice.
    """
    if [c.name for c in source.categories] == [c.name for c in learned]:
        return np.arange(len(source.categories))
    places = {category.name: i for i, category in enumerate(source.categories)}
    names = [category.name for category in learned]
    unknown = sorted(places.keys() - set(names))
    if unknown:
        raise ValueError(
            f"split {split!r} has the categories {', '.join(unknown)}, which the model does not "
            f"know; it knows {', '.join(names)}"
        )
    twice = sorted(name for name in places if names.count(name) > 1)
    if twice or len(places) < len(source.categories):
        raise ValueError(
            f"split {split!r} and the model have different lists of categories, in which "
            f"names occur twice ({', '.join(twice) or 'in the data'}): make them the same"
        )
    return np.asarray([places.get(name, -1) for name in names])


def _relabel(prediction: evaluation.Prediction, labels: np.ndarray) -> evaluation.Prediction:
    """The prediction in the data's labels, without classes that the data lacks."""
    label = labels[prediction.labels]
    known = np.flatnonzero(label >= 0)
    return prediction._replace(
        boxes=prediction.boxes[known],
        scores=prediction.scores[known],
        labels=label[known],
        rles=[prediction.rles[i] for i in known],
    )


Predict = Callable[[Variables, data.Source, data.DataConfig], Iterator[evaluation.Prediction]]


def make_predict(model: Model) -> Predict:
    """A function that predicts on every image of a source, in its order within each canvas, on all
    devices of this host; of several hosts each does its part of the images."""
    devices = jax.local_device_count()
    predict_batch = parallel_predict(model, devices)

    def predict(
        variables: Variables, source: data.Source, config: data.DataConfig
    ) -> Iterator[evaluation.Prediction]:
        variables = replicate_here(variables, devices)
        batches = data.eval_batches(
            source,
            config,
            batch_size=EVAL_BATCH_PER_DEVICE * devices,
            shard_index=host_index(),
            shard_count=host_count(),
        )
        for batch in batches:
            detections = predict_batch(variables, batch.images, batch.image_size)
            yield from evaluation.to_predictions(
                detections,
                batch.image_size,
                batch.original_size,
                batch.image_id,
                batch.valid,
                canvas=(batch.images.shape[1], batch.images.shape[2]),
            )

    return predict


def make_validate(
    experiment: Experiment, categories: Sequence[data.Category]
) -> Callable[[TrainState, int], Validation]:
    """The evaluation of a training on its own split `val`, over all hosts, for a model of these
    categories. Raises ValueError where the split has others.

    Where the run keeps a moving average, its figures count and those of the parameters as they
    are stand beside them as `last/...`.
    """
    config = experiment.data
    source = config.source.open("val")
    labels = _labels_in(source, categories, "val")
    predict = make_predict(experiment.model.build())
    names = [c.name for c in source.categories]

    def validate(state: TrainState, step: int) -> Validation:
        say(f"evaluating step {step} on {len(source)} images")
        predictions, figures = judge(variables_of(state, average=True))
        if state.ema is not None:
            _, raw = judge(variables_of(state, average=False))
            figures |= {f"last/{name}": value for name, value in raw.items()}
        shown = predictions[:PICTURES] if host_index() == 0 else []
        pictures = [_beside_truth(source, prediction, names) for prediction in shown]
        return Validation(figures["segm/AP"] or 0.0, figures, pictures)

    def judge(
        variables: Variables,
    ) -> tuple[list[evaluation.Prediction], dict[str, float | None]]:
        predictions = [_relabel(p, labels) for p in predict(variables, source, config)]
        results = gather_results(predictions, source)
        metrics = None
        if host_index() == 0:
            metrics = evaluation.evaluate(source.ground_truth(), results)
        return predictions, gather(metrics)[0]

    return validate


def draw_overlays(
    source: data.Source, predictions: Sequence[evaluation.Prediction], folder: pathlib.Path
) -> None:
    """Ground truth beside predictions for each image, as `folder/<image id>.png`."""
    names = [c.name for c in source.categories]
    for prediction in predictions:
        picture = _beside_truth(source, prediction, names)
        visualize.save_png(folder / f"{prediction.image_id}.png", picture)


def _beside_truth(
    source: data.Source, prediction: evaluation.Prediction, names: Sequence[str]
) -> np.ndarray:
    """A prediction beside what is annotated."""
    place = list(source.image_ids).index(prediction.image_id)
    example = source[place]
    truth = visualize.draw_instances(
        example.image, example.boxes, example.labels, names, example.rles
    )
    drawn = draw_prediction(example.image, prediction, names)
    return visualize.side_by_side(truth, drawn, ("ground truth", "prediction"))


def draw_prediction(
    image: np.ndarray,
    prediction: evaluation.Prediction,
    names: Sequence[str],
    threshold: float = 0.5,
) -> np.ndarray:
    """The instances with at least this score, drawn over the image."""
    shown = np.flatnonzero(prediction.scores >= threshold)
    return visualize.draw_instances(
        image,
        prediction.boxes[shown],
        prediction.labels[shown],
        names,
        [prediction.rles[i] for i in shown],
        prediction.scores[shown],
    )


def predict(
    workdir: pathlib.Path, images: Sequence[pathlib.Path], out: pathlib.Path, threshold: float
) -> None:
    """Overlays and `predictions.json` in COCO result format for image files.

    An image's id is its place in the list, from 1; each result names its file too.
    """
    pixels = [data.read_image(path) for path in images]  # all are read before work is spent
    trained = load(workdir)
    names = [c.name for c in trained.categories]
    source = data.ImageList(pixels)
    found_in = make_predict(trained.model)(trained.variables, source, trained.experiment.data)
    predictions = sorted(found_in, key=lambda prediction: prediction.image_id)
    results: list[dict[str, Any]] = []
    for path, image, prediction in zip(images, pixels, predictions, strict=True):
        found = evaluation.coco_results([prediction], [c.id for c in trained.categories])
        results += [{**result, "file_name": str(path)} for result in found]
        overlay = draw_prediction(image, prediction, names, threshold)
        visualize.save_png(out / f"{prediction.image_id:03}_{path.stem}.png", overlay)
        shown = int((prediction.scores >= threshold).sum())
        print(f"{path}: {shown} instances with a score of at least {threshold}")
    (out / "predictions.json").write_text(json.dumps(results))
