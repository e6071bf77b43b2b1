"""`jaxseg eval`: metrics, predictions and overlays of a checkpoint on a split."""

import contextlib
import json
import logging
import pathlib
import time
from collections.abc import Collection
from typing import Any

from jaxseg import data, evaluation, predictor, visualize
from jaxseg.commands.settings import check_processes_agree, split_identity
from jaxseg.data.panoptic import PanopticSource
from jaxseg.distributed import allgather_json, process_count, process_index
from jaxseg.experiment import replace_source, to_json
from jaxseg.files import atomic_write, check_output_folder, prepare_output_folder
from jaxseg.training.checkpoint import checksum
from jaxseg.training.preemption import PreemptionNotice
from jaxseg.validation import SplitEvaluator, draw_first

OVERLAYS = 16
"""Number of images of an evaluation that are drawn."""

_LOG = logging.getLogger(__name__)


def evaluate(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    data_folder: pathlib.Path | None = None,
    split: str = "val",
    step: int | None = None,
    ema: bool = True,
    allow_modules: Collection[str] = (),
    notice: PreemptionNotice | None = None,
) -> dict[str, float | None]:
    """Evaluate a checkpoint on a split; return the metrics.

    Writes `predictions.json` (COCO results), `metrics.json` and `overlays/` to `out`, each as soon
    as it is computed; where model and data are panoptic also `panoptic.json` and `panoptic/`.

    Args:
        workdir: the workdir of the run.
        out: the folder for results.
        data_folder: COCO folder or TFDS dataset, None for the data of the training.
        split: the split of the data.
        step: the step of the checkpoint, None for the newest.
        ema: use the EMA of the parameters where the run keeps one.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.
        notice: the notice to stop, None for none.

    Raises:
        Preempted: a notice to stop arrived; in all processes.
        ValueError: the processes have different flags, checkpoints or data.
    """
    check_processes_agree(allgather_json({"step": step, "no_ema": not ema, "split": split}))
    notice = notice or PreemptionNotice()
    if process_index() == 0:
        check_output_folder(out)
    # With several processes `restore` is a collective, which must not be aborted.
    with notice.raising() if process_count() == 1 else contextlib.nullcontext():
        trained = predictor.restore(workdir, step, ema=ema, allow_modules=allow_modules)
        experiment = trained.experiment
        if data_folder is not None:
            experiment = replace_source(experiment, data.folder_config(data_folder))
        evaluator = SplitEvaluator(experiment, trained.categories, split, notice)
    source = evaluator.source
    check_processes_agree(allgather_json(_identity(trained, source)))
    if process_index() == 0:
        prepare_output_folder(out)

    _LOG.info("evaluating step %d on %d images of split %r", trained.step, len(source), split)
    started = time.monotonic()
    results = evaluator.predict(trained.variables)
    _LOG.info("predicted in %.0f s", time.monotonic() - started)

    if process_index() == 0:
        with atomic_write(out / "predictions.json") as partial:
            partial.write_text(json.dumps(results.instances))
        if results.panoptic is not None and isinstance(source, PanopticSource):
            evaluation.write_panoptic_results(
                results.panoptic, source.categories, source.num_things, out / "panoptic.json"
            )
    metrics = evaluator.evaluate(results)
    if process_index() == 0:
        evaluation.write_metrics(metrics, out / "metrics.json")
        print(evaluation.format_table(metrics))
        for image_id, picture in draw_first(source, results, OVERLAYS):
            visualize.save_picture(out / "overlays" / f"{image_id}.png", picture)
    return metrics


def _identity(trained: predictor.TrainedModel, source: data.Source) -> dict[str, Any]:
    """Return what decides the results: the model, its checkpoint, and the data."""
    return {
        "experiment": to_json(trained.experiment),
        "categories": list(map(list, trained.categories)),
        "checkpoint": {"step": trained.step, "crc32": checksum(trained.variables)},
        "data": split_identity(source),
    }
