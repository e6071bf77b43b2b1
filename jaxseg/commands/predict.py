"""`jaxseg predict`: instances in image files."""

import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from jaxseg import data, evaluation, predictor
from jaxseg.files import atomic_write, check_output_folder, prepare_output_folder
from jaxseg.terminal import progress_bar
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
    Images are decoded batch by batch. Overlays are written as they are predicted, and results are
    appended to `predictions.incomplete.jsonl`, one in each line, which remains if an image fails or
    the process is stopped. `predictions.json` takes its place at the end.

    Args:
        workdir: the workdir of a run, whose newest checkpoint is used.
        images: the image files.
        out: the folder for results.
        threshold: lowest score of the instances that are drawn.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.
    """
    check_output_folder(out)
    source = data.ImageFiles(images)
    prepare_output_folder(out)
    trained = predictor.restore(workdir, allow_modules=allow_modules)
    names = [c.name for c in trained.categories]
    category_ids = [c.id for c in trained.categories]
    predictions = predictor.Predictor(trained.model).predict(
        trained.variables, source, trained.experiment.data
    )
    results: list[dict[str, Any]] = []
    incomplete = out / "predictions.incomplete.jsonl"
    with incomplete.open("w") as lines, progress_bar("images") as show_progress:
        for done, prediction in enumerate(predictions, start=1):
            path = images[prediction.image_id - 1]
            overlay = draw_prediction(data.read_image(path), prediction, names, threshold)
            save_png(out / _overlay_name(prediction.image_id, path), overlay)
            found = evaluation.coco_results([prediction], category_ids)
            found = [{**result, "file_name": str(path)} for result in found]
            results += found
            lines.write("".join(f"{json.dumps(result)}\n" for result in found))
            lines.flush()
            drawn = int((prediction.scores >= threshold).sum())
            print(f"{path}: {drawn} instances with a score of at least {threshold}")
            show_progress(done, len(images))
    with atomic_write(out / "predictions.json") as partial:
        partial.write_text(json.dumps(sorted(results, key=lambda result: result["image_id"])))
    incomplete.unlink()


def _overlay_name(image_id: int, path: pathlib.Path) -> str:
    """Return an overlay's file name, at most as long as file systems allow."""
    stem = os.fsdecode(os.fsencode(path.stem)[:200])
    return f"{image_id:03}_{stem}.png"
