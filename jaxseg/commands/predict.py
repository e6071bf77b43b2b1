"""`jaxseg predict`: instances in image files."""

import json
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from jaxseg import data
from jaxseg.detector import load
from jaxseg.files import atomic_write, prepare_output_folder
from jaxseg.visualize import save_png


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
    data.ImageFiles(images)
    prepare_output_folder(out)
    predictions = load(workdir, allow_modules=allow_modules).predict_each(images)
    results: list[dict[str, Any]] = []
    incomplete = out / "predictions.incomplete.jsonl"
    with incomplete.open("w") as lines:
        for instances in predictions:
            path = images[instances.image_id - 1]
            certain = instances[instances.scores >= threshold]
            save_png(out / _overlay_name(instances.image_id, path), certain.draw())
            found = [{**result, "file_name": str(path)} for result in instances.to_coco()]
            results += found
            lines.write("".join(f"{json.dumps(result)}\n" for result in found))
            lines.flush()
            print(f"{path}: {len(certain)} instances with a score of at least {threshold}")
    with atomic_write(out / "predictions.json") as partial:
        partial.write_text(json.dumps(sorted(results, key=lambda result: result["image_id"])))
    incomplete.unlink()


def _overlay_name(image_id: int, path: pathlib.Path) -> str:
    """Return an overlay's file name, at most as long as file systems allow."""
    stem = os.fsdecode(os.fsencode(path.stem)[:200])
    return f"{image_id:03}_{stem}.png"
