"""Evaluation of a model on one split, during training and by `jaxseg eval`."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxseg import data, evaluation, visualize
from jaxseg.data.panoptic import (
    PanopticMap,
    PanopticSource,
    label_categories,
    thing_categories,
)
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import Experiment
from jaxseg.model import PanopticModelConfig, Variables
from jaxseg.predictor import Predictor, variables_of
from jaxseg.terminal import progress_bar
from jaxseg.training.evaluator import Validation
from jaxseg.training.preemption import PreemptionNotice, run_unless_stopped
from jaxseg.training.step import TrainState

PICTURES = 4
"""Number of images with predictions that a training adds to TensorBoard."""
_SCORES = ("panoptic/PQ", "segm/AP", "bbox/AP")
"""A training keeps the best checkpoint by the first of these metrics that there is."""

_LOG = logging.getLogger(__name__)


class Results(NamedTuple):
    """Predictions on a split as COCO results, in the data's categories."""

    instances: list[dict[str, Any]]
    panoptic: list[dict[str, Any]] | None
    """None unless both the model and the data are panoptic."""


class SplitEvaluator:
    """Predicts on a split and computes the metrics, over all processes.

    Args:
        experiment: the model, the source, and the padding and resizing of images.
        categories: the categories of the model's labels, in their order.
        split: the split of the source.
        notice: the notice to stop, None for none.

    Raises:
        ValueError: the split has categories that the model does not, or things that are the model's
            stuff, or the reverse.
    """

    def __init__(
        self,
        experiment: Experiment,
        categories: Sequence[data.Category],
        split: str,
        notice: PreemptionNotice | None = None,
    ):
        self._notice = notice or PreemptionNotice()
        self._config, self._split = experiment.data, split
        self.source = data.without_semantic_maps(experiment.data.source).open(split)
        model = experiment.model
        self._label_map = match_categories(label_categories(self.source, model), categories, split)
        self._is_panoptic = isinstance(model, PanopticModelConfig) and isinstance(
            self.source, PanopticSource
        )
        num_things = len(thing_categories(self.source))
        _check_things(self._label_map, categories, model.num_classes, num_things)
        self._predictor = Predictor(model.build())

    def predict(self, variables: Variables) -> Results:
        """Return the predictions of all processes; a collective.

        Raises Preempted in all processes after a notice to stop.
        """
        category_ids = [c.id for c in self.source.categories]

        def share() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            predictions = self._predictor.predict(variables, self.source, self._config)
            total = -(-(len(self.source) - process_index()) // process_count())
            instances, panoptic = [], []
            with progress_bar("images predicted", active=process_index() == 0) as show_progress:
                for done, prediction in enumerate(predictions, start=1):
                    found = relabel(prediction, self._label_map)
                    instances += evaluation.coco_results([found], category_ids)
                    if self._is_panoptic and found.panoptic is not None:
                        panoptic.append(
                            evaluation.panoptic_result(found.image_id, found.panoptic, category_ids)
                        )
                    show_progress(done, total)
            return instances, panoptic

        shares = allgather_json(run_unless_stopped(self._notice, share))
        instances = [result for share, _ in shares for result in share]
        panoptic = [result for _, share in shares for result in share]
        return Results(instances, panoptic if self._is_panoptic else None)

    def evaluate(self, results: Results, *, boundaries: bool = True) -> evaluation.Metrics:
        """Return the metrics of results, computed by process 0; a collective.

        Boundary AP is left out unless `boundaries`.

        Raises Preempted in all processes after a notice to stop.
        """

        def metrics() -> evaluation.Metrics | None:
            if process_index() != 0:
                return None
            truth = self.source.ground_truth()
            _warn_of_lvis(truth, self._split)
            found = evaluation.evaluate(truth, results.instances, boundaries=boundaries)
            if results.panoptic is not None and isinstance(self.source, PanopticSource):
                found |= _panoptic_quality(self.source, results.panoptic)
            return found

        return allgather_json(run_unless_stopped(self._notice, metrics))[0]


class Validator:
    """Evaluates the states of a training on the split `val`, without boundary AP to save time.

    Where the run keeps an EMA of the parameters, the metrics and the score are the EMA's, and the
    metrics of the parameters themselves are returned as `raw_metrics`. The score is the panoptic
    quality of a panoptic model, else the mask AP, or the box AP of a model without masks.
    """

    def __init__(
        self,
        experiment: Experiment,
        categories: Sequence[data.Category],
        notice: PreemptionNotice | None = None,
    ):
        self._evaluator = SplitEvaluator(experiment, categories, "val", notice)

    @property
    def source(self) -> data.Source:
        """Return the data of the split."""
        return self._evaluator.source

    def __call__(self, state: TrainState, step: int) -> Validation:
        """Return the metrics of `state` and pictures of some predictions."""
        source = self.source
        _LOG.info("evaluating step %d on %d images", step, len(source))
        results, metrics = self._evaluate(variables_of(state, ema=True))
        raw_metrics = None
        if state.ema is not None:
            _, raw_metrics = self._evaluate(variables_of(state, ema=False))
        pictures = []
        if process_index() == 0:
            pictures = [picture for _, picture in draw_first(source, results, PICTURES)]
        name = next(name for name in _SCORES if name in metrics)
        return Validation(metrics[name] or 0.0, name, metrics, pictures, raw_metrics)

    def _evaluate(self, variables: Variables) -> tuple[Results, evaluation.Metrics]:
        results = self._evaluator.predict(variables)
        return results, self._evaluator.evaluate(results, boundaries=False)


def _warn_of_lvis(truth: dict[str, Any], split: str) -> None:
    if any("neg_category_ids" in image for image in truth["images"]):
        _LOG.warning(
            "split %r has annotations of LVIS, where each image has only some categories "
            "annotated. COCO's metrics count all other detections as wrong: they are lower than "
            "LVIS's own and not comparable with published ones",
            split,
        )


def _panoptic_quality(
    source: PanopticSource, results: Sequence[dict[str, Any]]
) -> evaluation.Metrics:
    """Return the panoptic quality of the results of a whole source, from all processes."""
    labels = {c.id: label for label, c in enumerate(source.categories)}
    result_of = {result["image_id"]: result for result in results}
    pairs = (
        (source.panoptic_map(i), evaluation.from_panoptic_result(result_of[image_id], labels))
        for i, image_id in enumerate(source.image_ids)
    )
    return evaluation.panoptic_quality(pairs, source.categories, source.num_things)


def draw_first(
    source: data.Source, results: Results, count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the ids and comparisons (uint8 `[h, w, 3]`) of a source's first `count` images.

    The results are of the whole source, from all processes. Where they are panoptic, so are the
    comparisons.
    """
    names = [c.name for c in source.categories]
    labels = {c.id: label for label, c in enumerate(source.categories)}
    for i, image_id in enumerate(source.image_ids[:count]):
        if results.panoptic is not None and isinstance(source, PanopticSource):
            result = next(r for r in results.panoptic if r["image_id"] == image_id)
            yield (
                image_id,
                visualize.draw_panoptic_comparison(
                    source[i].image,
                    source.panoptic_map(i),
                    evaluation.from_panoptic_result(result, labels),
                    names,
                    source.num_things,
                ),
            )
        else:
            found = [result for result in results.instances if result["image_id"] == image_id]
            prediction = evaluation.from_coco_results(image_id, found, labels)
            yield image_id, visualize.draw_comparison(source, prediction, names)


def match_categories(
    data_categories: Sequence[data.Category], model_categories: Sequence[data.Category], split: str
) -> np.ndarray:
    """Return the data's label of each of the model's labels, int `[C]`; -1 if the data lacks it.

    Categories match by name. If both lists have the same names in the same order they match by
    position, so that a name may occur twice.

    Raises:
        ValueError: the data has categories that the model does not, or the lists differ and a name
            occurs twice in one.
    """
    data_names = [category.name for category in data_categories]
    model_names = [category.name for category in model_categories]
    if data_names == model_names:
        return np.arange(len(data_names))
    unknown = sorted(set(data_names) - set(model_names))
    if unknown:
        raise ValueError(
            f"split {split!r} has categories that the model does not have: {', '.join(unknown)} "
            f"(the model has {', '.join(model_names)}). Remove them from the data, or evaluate "
            "a model that was trained on them"
        )
    repeated = sorted({n for n in data_names if max(data_names.count(n), model_names.count(n)) > 1})
    if repeated:
        raise ValueError(
            f"split {split!r} and the model have different lists of categories, in which names "
            f"occur twice: {', '.join(repeated)}. Give both the same list"
        )
    labels = {name: label for label, name in enumerate(data_names)}
    return np.asarray([labels.get(name, -1) for name in model_names])


def _check_things(
    label_map: np.ndarray, categories: Sequence[data.Category], model_things: int, data_things: int
) -> None:
    """Raise ValueError if a category is a thing of the model and stuff of the data, or reversed."""
    is_thing = np.arange(len(label_map)) < model_things
    differs = (label_map >= 0) & (is_thing != (label_map < data_things))
    if differs.any():
        names = ", ".join(categories[label].name for label in np.flatnonzero(differs).tolist())
        raise ValueError(
            f"these are things of the model and stuff of the data, or the reverse: {names}. "
            "Evaluate on data of the same kind"
        )


def relabel(prediction: evaluation.Prediction, label_map: np.ndarray) -> evaluation.Prediction:
    """Return the prediction in the data's labels, without what is of categories it lacks."""
    labels = label_map[prediction.labels]
    panoptic = prediction.panoptic and _relabel_map(prediction.panoptic, label_map)
    relabelled = prediction._replace(labels=labels, panoptic=panoptic)
    return relabelled.select(np.flatnonzero(labels >= 0))


def _relabel_map(panoptic: PanopticMap, label_map: np.ndarray) -> PanopticMap:
    segments = [s._replace(label=int(label_map[s.label])) for s in panoptic.segments]
    kept = [segment for segment in segments if segment.label >= 0]
    if len(kept) == len(segments):
        return PanopticMap(panoptic.ids, segments)
    is_kept = np.isin(panoptic.ids, [segment.id for segment in kept])
    return PanopticMap(np.where(is_kept, panoptic.ids, 0), kept)
