"""`jaxseg predict`: instances in image files."""

import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from jaxseg import data, evaluation, predictor
from jaxseg.visualize import draw_prediction, save_png


def predict(
    workdir: pathlib.Path,
    images: Sequence[pathlib.Path],
    out: pathlib.Path,
    threshold: float,
    *,
    allow_modules: Collection[str] = (),
) -> None:
    """Predict on image files; write overlays and `predictions.json` (COCO results) to `out`.

    An image's id is its position in the list, counted from 1; each result also holds its file name.

    Args:
        workdir: the workdir of a run, whose newest checkpoint is used.
        images: the image files.
        out: the folder for results.
        threshold: lowest score of the instances that are drawn.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.
    """
    pixels = [data.read_image(path) for path in images]  # all, before the model is restored
    trained = predictor.restore(workdir, allow_modules=allow_modules)
    names = [c.name for c in trained.categories]
    category_ids = [c.id for c in trained.categories]
    predictions = predictor.Predictor(trained.model).predict(
        trained.variables, data.ImageList(pixels), trained.experiment.data
    )
    by_image = sorted(predictions, key=lambda prediction: prediction.image_id)
    results: list[dict[str, Any]] = []
    for path, image, prediction in zip(images, pixels, by_image, strict=True):
        for result in evaluation.coco_results([prediction], category_ids):
            results.append({**result, "file_name": str(path)})
        overlay = draw_prediction(image, prediction, names, threshold)
        save_png(out / f"{prediction.image_id:03}_{path.stem}.png", overlay)
        drawn = int((prediction.scores >= threshold).sum())
        print(f"{path}: {drawn} instances with a score of at least {threshold}")
    (out / "predictions.json").write_text(json.dumps(results))
