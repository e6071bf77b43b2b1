"""`jaxseg predict`: instances in image files."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxseg import data, evaluation
from jaxseg.predictor import load, make_predict
from jaxseg.visualize import draw_prediction, save_png


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
        save_png(out / f"{prediction.image_id:03}_{path.stem}.png", overlay)
        shown = int((prediction.scores >= threshold).sum())
        print(f"{path}: {shown} instances with a score of at least {threshold}")
    (out / "predictions.json").write_text(json.dumps(results))
