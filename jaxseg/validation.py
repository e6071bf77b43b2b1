"""Evaluation of a model on one split, during training and by `jaxseg eval`."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxseg import data, evaluation, visualize
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import Experiment
from jaxseg.model import Model, Variables
from jaxseg.predictor import Predictor, variables_of
from jaxseg.terminal import progress_bar
from jaxseg.training.evaluator import Validation
from jaxseg.training.preemption import PreemptionNotice, run_unless_stopped
from jaxseg.training.step import TrainState

PICTURES = 4
"""Number of images with predictions that a training adds to TensorBoard."""

_LOG = logging.getLogger(__name__)


class SplitEvaluator:
    """Predicts on a split and computes the metrics, over all processes.

    Args:
        model: the model.
        categories: the categories of the model's labels, in their order.
        config: the source, and the padding and resizing of images.
        split: the split of the source.
        notice: the notice to stop, None for none.

    Raises:
        ValueError: the split has categories that the model does not.
    """

    def __init__(
        self,
        model: Model,
        categories: Sequence[data.Category],
        config: data.DataConfig,
        split: str,
        notice: PreemptionNotice | None = None,
    ):
        self._notice = notice or PreemptionNotice()
        self.source, self._split = config.source.open(split), split
        self._label_map = match_categories(self.source.categories, categories, split)
        self._predictor, self._config = Predictor(model), config

    def predict(self, variables: Variables) -> list[dict[str, Any]]:
        """Return the predictions of all processes as a COCO result list; a collective.

        Labels are the data's. Raises Preempted in all processes after a notice to stop.
        """
        category_ids = [c.id for c in self.source.categories]

        def share() -> list[dict[str, Any]]:
            predictions = self._predictor.predict(variables, self.source, self._config)
            total = -(-(len(self.source) - process_index()) // process_count())
            relabelled = []
            with progress_bar("images predicted", active=process_index() == 0) as show_progress:
                for done, prediction in enumerate(predictions, start=1):
                    relabelled.append(relabel(prediction, self._label_map))
                    show_progress(done, total)
            return evaluation.coco_results(relabelled, category_ids)

        shares = allgather_json(run_unless_stopped(self._notice, share))
        return [result for share in shares for result in share]

    def evaluate(
        self, results: Sequence[dict[str, Any]], *, boundaries: bool = True
    ) -> evaluation.Metrics:
        """Return the metrics of a COCO result list, computed by process 0; a collective.

        Boundary AP is left out unless `boundaries`.

        Raises Preempted in all processes after a notice to stop.
        """

        def metrics() -> evaluation.Metrics | None:
            if process_index() != 0:
                return None
            truth = self.source.ground_truth()
            _warn_of_lvis(truth, self._split)
            return evaluation.evaluate(truth, results, boundaries=boundaries)

        return allgather_json(run_unless_stopped(self._notice, metrics))[0]


class Validator:
    """Evaluates the states of a training on the split `val`, without boundary AP to save time.

    Where the run keeps an EMA of the parameters, the metrics and the score are the EMA's, and the
    metrics of the parameters themselves are returned as `raw_metrics`. The score is the mask AP, or
    the box AP of a model without masks.
    """

    def __init__(
        self,
        experiment: Experiment,
        categories: Sequence[data.Category],
        notice: PreemptionNotice | None = None,
    ):
        self._evaluator = SplitEvaluator(
            experiment.model.build(), categories, experiment.data, "val", notice
        )

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
        name = "segm/AP" if "segm/AP" in metrics else "bbox/AP"
        return Validation(metrics[name] or 0.0, name, metrics, pictures, raw_metrics)

    def _evaluate(self, variables: Variables) -> tuple[list[dict[str, Any]], evaluation.Metrics]:
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


def draw_first(
    source: data.Source, results: Sequence[dict[str, Any]], count: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the ids and comparisons (uint8 `[h, w, 3]`) of a source's first `count` images.

    `results` are COCO results of the whole source, of whatever process.
    """
    names = [c.name for c in source.categories]
    labels = {c.id: label for label, c in enumerate(source.categories)}
    for image_id in source.image_ids[:count]:
        found = [result for result in results if result["image_id"] == image_id]
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


def relabel(prediction: evaluation.Prediction, label_map: np.ndarray) -> evaluation.Prediction:
    """Return the prediction in the data's labels, without instances of categories it lacks."""
    labels = label_map[prediction.labels]
    return prediction._replace(labels=labels).select(np.flatnonzero(labels >= 0))
