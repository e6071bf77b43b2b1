"""`jaxseg eval`: figures, predictions and overlays of a checkpoint on a split."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

from jaxseg import data, evaluation, visualize
from jaxseg.distributed import allgather_json, process_index
from jaxseg.log import say
from jaxseg.predictor import load, make_predict
from jaxseg.validation import gather_results, labels_in, relabel

OVERLAYS = 16
"""How many images of an evaluation are drawn."""


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
    labels = labels_in(source, trained.categories, split)

    say(f"evaluating step {trained.step} on {len(source)} images of split {split!r}")
    started = time.monotonic()
    predict = make_predict(trained.model)
    predictions = [relabel(p, labels) for p in predict(trained.variables, source, config)]
    say(f"predicted in {time.monotonic() - started:.0f} s")
    results = gather_results(predictions, source)
    metrics = None
    if process_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.json").write_text(json.dumps(results))
        metrics = evaluation.evaluate(source.ground_truth(), results)
        draw_overlays(source, predictions[:OVERLAYS], out / "overlays")
        evaluation.write_metrics(metrics, out / "metrics.json")
        print(evaluation.format_table(metrics))
    return allgather_json(metrics)[0]


def draw_overlays(
    source: data.Source, predictions: Sequence[evaluation.Prediction], folder: pathlib.Path
) -> None:
    """Ground truth beside predictions for each image, as `folder/<image id>.png`."""
    names = [c.name for c in source.categories]
    for prediction in predictions:
        picture = visualize.beside_truth(source, prediction, names)
        visualize.save_png(folder / f"{prediction.image_id}.png", picture)
