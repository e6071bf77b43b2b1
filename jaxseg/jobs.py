"""The jobs behind the commands: where data, model, training and evaluation meet."""

import dataclasses
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg import data, evaluation, visualize, weights
from jaxseg.experiment import Experiment, from_json, to_json
from jaxseg.model import Model, Variables
from jaxseg.training import loop
from jaxseg.training.checkpoint import Checkpoints, open_checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.parallel import parallel_predict, replicate
from jaxseg.training.progress import say
from jaxseg.training.step import init_state

EVAL_BATCH_PER_DEVICE = 4
OVERLAYS = 16
"""How many images of an evaluation are drawn."""


class Trained(NamedTuple):
    """A model out of a checkpoint, with all that is needed to use it."""

    experiment: Experiment
    categories: Sequence[data.Category]
    model: Model
    variables: Variables
    step: int


def train(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Trains `experiment` in `workdir`, or goes on with it where it was interrupted."""
    source = experiment.data.source.open("train")
    if experiment.model.num_classes != len(source.categories):
        raise ValueError(
            f"the data has {len(source.categories)} categories and the model.num_classes is "
            f"{experiment.model.num_classes}: set it to {len(source.categories)}"
        )
    record = run_record(experiment, source.categories) | {"data": _fingerprint(source)}
    from_json(record["experiment"])  # a config that could not be read back is an error now
    _check_same_run(workdir, record)
    model = experiment.model.build()
    config = experiment.train

    def batches(start: int) -> Any:
        return data.train_batches(
            source,
            experiment.data,
            model.needs,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
        )

    say(f"training on {len(source)} images, {jax.local_device_count()} device(s), in {workdir}")
    shape = (1, *experiment.data.canvases[0], 3)
    start = _pretrained(experiment)
    loop.train(model, config, batches, shape, workdir, record, pretrained=start)


def _pretrained(experiment: Experiment) -> Callable[[Variables], Variables] | None:
    """Puts the experiment's file of weights into a model's random variables, if it names one."""
    if experiment.pretrained is None:
        return None
    path, config = pathlib.Path(experiment.pretrained).expanduser(), experiment.model
    return lambda variables: weights.with_backbone(
        variables, weights.load_resnet_file(path, config.backbone)
    )


def run_record(experiment: Experiment, categories: Sequence[data.Category]) -> dict[str, Any]:
    """What a checkpoint says of itself, as JSON."""
    return {
        "experiment": to_json(experiment),
        "categories": [{"id": c.id, "name": c.name} for c in categories],
    }


def _fingerprint(source: data.Source) -> dict[str, int]:
    """What tells whether a run goes on with the images, in the order, that it began with."""
    ids = np.asarray(source.image_ids, np.int64).tobytes()
    sizes = np.ascontiguousarray(source.image_sizes, np.int32).tobytes()
    return {"images": len(source), "checksum": zlib.crc32(ids + sizes)}


MAY_CHANGE = ("train.log_every", "train.checkpoint_every", "train.keep_checkpoints")
"""Fields that a run may be resumed with other values of."""


def _check_same_run(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Refuses to go on with a run of another experiment."""
    if not (workdir / "checkpoints").is_dir():
        return
    with Checkpoints(workdir) as checkpoints:
        if checkpoints.latest_step() is None:
            return
        before = _flatten(checkpoints.experiment())
    now = _flatten(record)
    changed = [
        f"{name.removeprefix('experiment.')} ({before.get(name)} -> {now.get(name)})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name.removeprefix("experiment.") not in MAY_CHANGE
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other choices: {', '.join(changed)}. "
            "Give the same ones to go on with it, or another --workdir."
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as `{"train.optimizer.kind": "sgd", ...}`."""
    if isinstance(value, dict):
        items = value.items()
        return {k: v for name, item in items for k, v in _flatten(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): value}


def load(workdir: pathlib.Path, step: int | None = None) -> Trained:
    """The checkpoint of a run at `step`, or the newest."""
    with open_checkpoints(workdir) as checkpoints:
        record = checkpoints.experiment()
        experiment = from_json(record["experiment"])
        model = experiment.model.build()
        config = experiment.train
        optimizer = make_optimizer(config.optimizer, config.steps)
        shape = (1, *experiment.data.canvases[0], 3)
        state = checkpoints.restore(
            jax.eval_shape(lambda: init_state(model, optimizer, shape, config.seed)), step
        )
    categories = [data.Category(**category) for category in record["categories"]]
    variables = {"params": state.params, **state.model_state}
    return Trained(experiment, categories, model, variables, int(state.step))


def evaluate(
    workdir: pathlib.Path,
    out: pathlib.Path,
    *,
    data_folder: pathlib.Path | None = None,
    split: str = "val",
    step: int | None = None,
) -> dict[str, float | None]:
    """Box and mask AP of a checkpoint, the newest unless `step` is given; writes metrics,
    predictions and overlays.

    Returns the metrics as written to `out/metrics.json`.
    """
    trained = load(workdir, step)
    config = trained.experiment.data
    if data_folder is not None:
        config = dataclasses.replace(config, source=data.CocoFolder(str(data_folder)))
    source = config.source.open(split)
    labels = _labels_in(source, trained, split)

    say(f"evaluating step {trained.step} on {len(source)} images of split {split!r}")
    started = time.monotonic()
    predictions = [_relabel(p, labels) for p in predict_source(trained, source, config)]
    say(f"predicted in {time.monotonic() - started:.0f} s")
    results = evaluation.coco_results(predictions, [c.id for c in source.categories])
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions.json").write_text(json.dumps(results))
    metrics = evaluation.evaluate(source.ground_truth(), results)
    draw_overlays(source, predictions[:OVERLAYS], out / "overlays")
    evaluation.write_metrics(metrics, out / "metrics.json")
    print(evaluation.format_table(metrics))
    return metrics


def _labels_in(source: data.Source, trained: Trained, split: str) -> np.ndarray:
    """The data's label of each of the model's classes, by name; -1 for those it lacks.

    Where both have the same list, its order counts, so that names may occur twice.
    """
    if [c.name for c in source.categories] == [c.name for c in trained.categories]:
        return np.arange(len(source.categories))
    places = {category.name: i for i, category in enumerate(source.categories)}
    names = [category.name for category in trained.categories]
    unknown = sorted(places.keys() - set(names))
    if unknown:
        raise ValueError(
            f"split {split!r} has the categories {', '.join(unknown)}, which the checkpoint does "
            f"not know; it knows {', '.join(names)}"
        )
    twice = sorted(name for name in places if names.count(name) > 1)
    if twice or len(places) < len(source.categories):
        raise ValueError(
            f"split {split!r} and the checkpoint have different lists of categories, in which "
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


def predict_source(
    trained: Trained, source: data.Source, config: data.DataConfig
) -> Iterator[evaluation.Prediction]:
    """Predictions for every image of a source, in its order within each canvas."""
    devices = jax.local_device_count()
    predict = parallel_predict(trained.model, devices)
    variables = replicate(trained.variables, devices)
    for batch in data.eval_batches(source, config, batch_size=EVAL_BATCH_PER_DEVICE * devices):
        detections = predict(variables, batch.images, batch.image_size)
        yield from evaluation.to_predictions(
            detections,
            batch.image_size,
            batch.original_size,
            batch.image_id,
            batch.valid,
            canvas=(batch.images.shape[1], batch.images.shape[2]),
        )


def draw_overlays(
    source: data.Source, predictions: Sequence[evaluation.Prediction], folder: pathlib.Path
) -> None:
    """Ground truth beside predictions for each image, as `folder/<image id>.png`."""
    place = {image_id: i for i, image_id in enumerate(source.image_ids)}
    names = [c.name for c in source.categories]
    for prediction in predictions:
        example = source[place[prediction.image_id]]
        truth = visualize.draw_instances(
            example.image, example.boxes, example.labels, names, example.rles
        )
        picture = visualize.side_by_side(
            truth, draw_prediction(example.image, prediction, names), ("ground truth", "prediction")
        )
        visualize.save_png(folder / f"{prediction.image_id}.png", picture)


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
    found_in = predict_source(trained, source, trained.experiment.data)
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
