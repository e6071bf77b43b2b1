"""Evaluation of a model on a split, also in mid-training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxseg import data, evaluation, visualize
from jaxseg.distributed import allgather_json, process_index
from jaxseg.experiment import Experiment
from jaxseg.log import say
from jaxseg.model import Variables
from jaxseg.predictor import make_predict, variables_of
from jaxseg.training.loop import Validation
from jaxseg.training.step import TrainState

PICTURES = 4
"""How many images a training shows among its curves."""


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
    labels = labels_in(source, categories, "val")
    predict = make_predict(experiment.model.build())
    names = [c.name for c in source.categories]

    def validate(state: TrainState, step: int) -> Validation:
        say(f"evaluating step {step} on {len(source)} images")
        predictions, figures = evaluate_variables(variables_of(state, average=True))
        if state.ema is not None:
            _, raw = evaluate_variables(variables_of(state, average=False))
            figures |= {f"last/{name}": value for name, value in raw.items()}
        shown = predictions[:PICTURES] if process_index() == 0 else []
        pictures = [visualize.beside_truth(source, prediction, names) for prediction in shown]
        return Validation(figures["segm/AP"] or 0.0, figures, pictures)

    def evaluate_variables(
        variables: Variables,
    ) -> tuple[list[evaluation.Prediction], dict[str, float | None]]:
        predictions = [relabel(p, labels) for p in predict(variables, source, config)]
        results = gather_results(predictions, source)
        metrics = None
        if process_index() == 0:
            metrics = evaluation.evaluate(source.ground_truth(), results)
        return predictions, allgather_json(metrics)[0]

    return validate


def gather_results(
    predictions: Sequence[evaluation.Prediction], source: data.Source
) -> list[dict[str, Any]]:
    """The predictions of all hosts as a COCO result list."""
    own = evaluation.coco_results(predictions, [c.id for c in source.categories])
    return [result for part in allgather_json(own) for result in part]


def labels_in(source: data.Source, learned: Sequence[data.Category], split: str) -> np.ndarray:
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


def relabel(prediction: evaluation.Prediction, labels: np.ndarray) -> evaluation.Prediction:
    """The prediction in the data's labels, without classes that the data lacks."""
    label = labels[prediction.labels]
    known = np.flatnonzero(label >= 0)
    return prediction._replace(
        boxes=prediction.boxes[known],
        scores=prediction.scores[known],
        labels=label[known],
        rles=[prediction.rles[i] for i in known],
    )
