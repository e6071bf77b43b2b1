"""Print how fast training images are prepared, beside Pillow alone in the same loop.

The first table is images per second and milliseconds per image on one thread, in CPU time, which
other programs disturb the least; the best of three rounds. The second divides that time among the
stages of the pipeline. The third is images per second of wall time from `train_batches` with 0, 1
and 2 worker processes.

    python scripts/data_throughput.py FOLDER SPLIT
"""

import contextlib
import functools
import itertools
import pathlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

from jaxseg.data import (
    Augmentation,
    CocoFolder,
    ColorJitter,
    CopyPaste,
    DataConfig,
    ScaleJitter,
    pipeline,
    train_batches,
)
from jaxseg.data.coco import folder as coco_folder
from jaxseg.data.transforms import sample
from jaxseg.data.transforms.resize import scaled_size
from jaxseg.data.transforms.view import View
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec

IMAGES, ROUNDS, BATCH_SIZE, WARMUP_BATCHES = 160, 3, 8, 8
BOX_CROPS = TargetSpec(BoxCrops(28))
IMAGE_MASKS = TargetSpec(ImageMasks(4), centers=True)
SIZE_1X = {"buckets": ((800, 1344), (1344, 800)), "min_size": 800, "max_size": 1333}
SIZE_LSJ = {"buckets": ((1024, 1024),), "min_size": 1024, "max_size": 1024}
LSJ = Augmentation(lsj=ScaleJitter())
LSJ_COPY_PASTE = Augmentation(lsj=ScaleJitter(), copy_paste=CopyPaste(1.0))
RECIPES: dict[str, tuple[dict[str, Any], TargetSpec]] = {
    "1x, box crops": (SIZE_1X, BOX_CROPS),
    "1x, image masks": (SIZE_1X, IMAGE_MASKS),
    "1x, colour jitter": (
        {**SIZE_1X, "augmentation": Augmentation(color=ColorJitter())},
        BOX_CROPS,
    ),
    "LSJ 1024": ({**SIZE_LSJ, "augmentation": LSJ}, BOX_CROPS),
    "LSJ 1024, copy-paste": ({**SIZE_LSJ, "augmentation": LSJ_COPY_PASTE}, BOX_CROPS),
    "LSJ 1024, copy-paste, image masks": (
        {**SIZE_LSJ, "augmentation": LSJ_COPY_PASTE},
        IMAGE_MASKS,
    ),
}
# The functions of each stage, as attributes that are replaced to time them. None calls another.
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((coco_folder, "read_image"),),
    "annotations": ((coco_folder, "to_rle"),),
    "resize, pad": ((View, "render"),),
    "objects": ((sample, "view_objects"),),
    "paste": ((sample, "paste_objects"),),
    "colours": ((sample, "transform_colors"), (sample, "random_color_matrix")),
    "masks": ((sample, "_build_sample"),),
    "stack, pack": ((pipeline, "_stack"),),
}


def main(folder: str, split: str) -> None:
    cv2.setNumThreads(1)
    source = CocoFolder(folder).open(split)
    print(f"{folder} {split}: {len(source)} images, {IMAGES} a round; images/s on one core\n")
    runs = all_runs(folder, source)
    print_rates(runs)
    print_stages({name: runs[name] for name in RECIPES})
    print_batch_rates(folder, source, ("1x, box crops", "LSJ 1024, copy-paste"))


def all_runs(folder: str, source: coco_folder.CocoSource) -> dict[str, Callable[[], None]]:
    """Return a function for each row of the first table; it prepares `IMAGES` images."""
    paths = [source.image_path(i % len(source)) for i in range(IMAGES)]
    runs: dict[str, Callable[[], None]] = {
        "Pillow, decode": functools.partial(read_with_pillow, paths, resize=False),
        "Pillow, decode and resize": functools.partial(read_with_pillow, paths, resize=True),
    }
    for name, (fields, targets) in RECIPES.items():
        runs[name] = functools.partial(prepare, source, data_config(folder, fields), targets)
    return runs


def data_config(folder: str, fields: dict[str, Any], num_workers: int = 0) -> DataConfig:
    return DataConfig(CocoFolder(folder), num_threads=1, num_workers=num_workers, **fields)


def read_with_pillow(paths: list[pathlib.Path], *, resize: bool) -> None:
    for path in paths:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if resize:
                height, width = scaled_size((rgb.height, rgb.width), (1344, 1344), (800, 1333))
                rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
            np.asarray(rgb)


def prepare(source: coco_folder.CocoSource, config: DataConfig, targets: TargetSpec) -> None:
    """Prepare batches as the pipeline does, in this thread."""
    train = pipeline.TrainPipeline(source, config, targets, BATCH_SIZE, seed=0)
    batches = pipeline._TrainBatches(train, start_step=0)
    for step in range(IMAGES // BATCH_SIZE):
        batches[step]


def print_rates(runs: dict[str, Callable[[], None]]) -> None:
    print("| | images/s | ms an image |")
    print("| --- | --- | --- |")
    best = dict.fromkeys(runs, float("inf"))
    # Rounds alternate between the runs, so that noise affects all of them alike.
    for _, name in itertools.product(range(ROUNDS), runs):
        best[name] = min(best[name], cpu_seconds(runs[name]))
    for name, seconds in best.items():
        print(f"| {name} | {IMAGES / seconds:.0f} | {1000 * seconds / IMAGES:.1f} |", flush=True)


def print_stages(runs: dict[str, Callable[[], None]]) -> None:
    print("\nms an image:\n")
    print("| | " + " | ".join(STAGES) + " | other |")
    print("| --- |" + " --- |" * (len(STAGES) + 1))
    for name, run in runs.items():
        row = [f"{1000 * seconds / IMAGES:.2f}" for seconds in stage_seconds(run)]
        print(f"| {name} | " + " | ".join(row) + " |")


def print_batch_rates(folder: str, source: coco_folder.CocoSource, names: tuple[str, ...]) -> None:
    print("\nBatches from `train_batches`, images/s:\n")
    print("| | no worker | 1 worker | 2 workers |")
    print("| --- | --- | --- | --- |")
    for name in names:
        fields, targets = RECIPES[name]
        rates = [
            max(
                batch_rate(source, data_config(folder, fields, num_workers), targets)
                for _ in range(ROUNDS)
            )
            for num_workers in (0, 1, 2)
        ]
        print(f"| {name} | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |", flush=True)


def cpu_seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def stage_seconds(run: Callable[[], None]) -> list[float]:
    """Return the CPU seconds of a run in each of `STAGES`, and last those in no stage."""
    spent: dict[str, float] = defaultdict(float)
    with contextlib.ExitStack() as stack:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                stack.enter_context(timed(owner, name, spent, stage))
        total = cpu_seconds(run)
    return [spent[stage] for stage in STAGES] + [total - sum(spent.values())]


@contextlib.contextmanager
def timed(owner: Any, name: str, spent: dict[str, float], stage: str) -> Iterator[None]:
    """Replace a function inside the context by one that adds its CPU seconds to `spent[stage]`."""
    function = getattr(owner, name)

    def timed_function(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - start

    setattr(owner, name, timed_function)
    try:
        yield
    finally:
        setattr(owner, name, function)


def batch_rate(source: coco_folder.CocoSource, config: DataConfig, targets: TargetSpec) -> float:
    """Return images per second of wall time from `train_batches`."""
    images = 3 * IMAGES
    stream = train_batches(source, config, targets, batch_size=BATCH_SIZE, seed=0)
    with contextlib.closing(stream):  # type: ignore[type-var]
        for _ in range(WARMUP_BATCHES):  # workers start and fill their queues
            next(stream)
        start = time.perf_counter()
        for _ in range(images // BATCH_SIZE):
            next(stream)
        return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
