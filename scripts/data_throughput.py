"""How fast training images are prepared, beside Pillow alone in the same loop.

One thread each, in seconds of its processor's time, which other programs disturb the least; the
best of three rounds over the images. Then where the time goes; then, in seconds of the clock,
batches from worker processes.

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
    coco,
    pipeline,
    train_batches,
    transforms,
)
from jaxseg.data.coco.folder import CocoSource
from jaxseg.data.transforms.resize import choose_buckets, scaled_size
from jaxseg.data.transforms.view import View
from jaxseg.types import MaskFrame, MaskSpec

IMAGES, ROUNDS, BATCH = 160, 3, 8
CROPS = MaskSpec(MaskFrame.GRID_SAMPLE, 28)
WHOLE = MaskSpec(MaskFrame.IMAGE, 4, centers=True)
ONCE = ((800, 1344), (1344, 800)), (800, 1333), Augmentation()
LARGE = ((1024, 1024),), (1024, 1024)
JITTER, PASTE = ScaleJitter(), CopyPaste(1.0)
RECIPES: dict[str, tuple[Any, MaskSpec]] = {
    "1x, masks cropped": (ONCE, CROPS),
    "1x, masks of the image": (ONCE, WHOLE),
    "1x with colours": ((*ONCE[:2], Augmentation(color=ColorJitter())), CROPS),
    "LSJ 1024": ((*LARGE, Augmentation(lsj=JITTER)), CROPS),
    "LSJ 1024, copy-paste": ((*LARGE, Augmentation(lsj=JITTER, copy_paste=PASTE)), CROPS),
    "the same, masks of the image": (
        (*LARGE, Augmentation(lsj=JITTER, copy_paste=PASTE)),
        WHOLE,
    ),
}
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((coco, "read_image"),),
    "annotations": ((coco, "to_rle"),),
    "resize, pad": ((View, "draw"),),
    "objects": ((transforms, "place"),),
    "paste": ((transforms, "paste"),),
    "colours": ((transforms, "change_colors"), (transforms, "random_colors")),
    "masks": ((transforms, "_pack"),),
    "stack, pack": ((pipeline, "_stack"),),
}


def main(folder: str, split: str) -> None:
    cv2.setNumThreads(1)
    source = CocoFolder(folder).open(split)
    files = [source.image_path(i) for i in range(len(source))]
    indices = [i % len(source) for i in range(IMAGES)]
    print(f"{folder} {split}: {len(source)} images, {IMAGES} a round; images/s on one core\n")
    print("| | images/s | ms an image |")
    print("| --- | --- | --- |")
    runs: dict[str, Callable[[], None]] = {
        "Pillow, decode": lambda: _each(indices, lambda i: _decode(files[i])),
        "Pillow, decode and resize": lambda: _each(indices, lambda i: _shrink(files[i])),
    }
    for name, (recipe, needs) in RECIPES.items():
        runs[name] = functools.partial(_prepare, source, _config(folder, recipe), needs)
    best = dict.fromkeys(runs, float("inf"))
    for _, name in itertools.product(range(ROUNDS), runs):  # in turn, so that noise hits all alike
        best[name] = min(best[name], _seconds(runs[name]))
    for name, seconds in best.items():
        print(f"| {name} | {IMAGES / seconds:.0f} | {1000 * seconds / IMAGES:.1f} |", flush=True)
    print("\nms an image:\n")
    print("| | " + " | ".join(STAGES) + " | other |")
    print("| --- |" + " --- |" * (len(STAGES) + 1))
    for name in RECIPES:
        spent = _breakdown(runs[name])
        print(f"| {name} | " + " | ".join(f"{1000 * s / IMAGES:.2f}" for s in spent) + " |")
    print("\nBatches from `train_batches`, images/s:\n")
    print("| | no process | 1 process | 2 processes |")
    print("| --- | --- | --- | --- |")
    for name in ("1x, masks cropped", "LSJ 1024, copy-paste"):
        recipe, needs = RECIPES[name]
        rates = [
            max(_rate(source, _config(folder, recipe, workers=w), needs) for _ in range(ROUNDS))
            for w in (0, 1, 2)
        ]
        print(f"| {name} | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |", flush=True)


def _config(folder: str, recipe: Any, workers: int = 0) -> DataConfig:
    buckets, (min_size, max_size), changes = recipe
    data = CocoFolder(folder)
    return DataConfig(
        data, buckets, min_size, max_size, augmentation=changes, num_workers=workers, num_threads=1
    )


def _each(indices: list[int], do: Callable[[int], Any]) -> None:
    for index in indices:
        do(index)


def _decode(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _shrink(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        height, width = scaled_size((image.height, image.width), (1344, 1344), (800, 1333))
        resized = image.convert("RGB").resize((width, height), Image.ResizeBackend.BILINEAR)
        return np.asarray(resized)


def _prepare(source: CocoSource, config: DataConfig, needs: MaskSpec) -> None:
    """Batches as the pipeline makes them, in this thread."""
    groups = choose_buckets(source.image_sizes, config.buckets, config.min_max_size)
    order = pipeline.Order(groups, seed=0, batch_size=BATCH)
    batches = pipeline._TrainBatches(
        source, config, needs, order, seed=0, places=range(BATCH), start_step=0
    )
    for step in range(IMAGES // BATCH):
        batches[step]


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _breakdown(run: Callable[[], None]) -> list[float]:
    """Seconds in each of `STAGES`, none of which calls another, and in all the rest."""
    spent: dict[str, float] = defaultdict(float)
    with contextlib.ExitStack() as stack:
        for stage, functions in STAGES.items():
            for owner, name in functions:
                stack.enter_context(_timed(owner, name, spent, stage))
        total = _seconds(run)
    return [spent[stage] for stage in STAGES] + [total - sum(spent.values())]


@contextlib.contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], stage: str) -> Iterator[None]:
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


def _rate(source: CocoSource, config: DataConfig, needs: MaskSpec) -> float:
    stream = train_batches(source, config, needs, batch_size=BATCH, seed=0)
    with contextlib.closing(stream):  # type: ignore[type-var]
        for _ in range(8):  # processes start and their queues fill
            next(stream)
        start = time.perf_counter()
        for _ in range(3 * IMAGES // BATCH):
            next(stream)
        return 3 * IMAGES / (time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
