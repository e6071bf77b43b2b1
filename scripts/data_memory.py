"""Whether memory grows while batches are made: over epochs, and with an image of 1,000 objects.

The memory is that of this process and its workers (PSS: what processes share counts once), after
each epoch of training batches with everything switched on.

    python scripts/data_memory.py FOLDER SPLIT [WORKERS]
"""

import sys

import numpy as np
import psutil
from pycocotools import mask as mask_api

from jaxseg.data import (
    Augmentation,
    CocoFolder,
    ColorJitter,
    CopyPaste,
    DataConfig,
    Example,
    ScaleJitter,
    coco_json,
    train_batches,
)
from jaxseg.data.source import Category
from jaxseg.types import MaskFrame, MaskSpec

EPOCHS, BATCH, OBJECTS = 10, 4, 1000
CHANGES = Augmentation(lsj=ScaleJitter(), copy_paste=CopyPaste(), color=ColorJitter())


def main(folder: str, split: str, workers: str = "2") -> None:
    config = DataConfig(
        CocoFolder(folder),
        buckets=((1024, 1024),),
        min_size=1024,
        max_size=1024,
        augmentation=CHANGES,
        num_workers=int(workers),
    )
    source = CocoFolder(folder).open(split)
    print(f"{folder} {split}, {len(source)} images, {workers} workers")
    measure(source, config, -(-len(source) // BATCH))
    crowded = Crowded()
    print(f"{len(crowded)} images of {OBJECTS} objects")
    measure(crowded, config, -(-len(crowded) // BATCH))


def measure(source, config, batches):
    """Prints the memory after each epoch."""
    needs = MaskSpec(MaskFrame.GRID_SAMPLE, 28)
    stream = train_batches(source, config, needs, batch_size=BATCH, seed=0)
    print("| epoch | MiB |\n| --- | --- |")
    for epoch in range(1, EPOCHS + 1):
        for _ in range(batches):
            next(stream)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        held = sum(process.memory_full_info().pss for process in processes)
        print(f"| {epoch} | {held / 2**20:.0f} |", flush=True)
    stream.close()


class Crowded:
    """Large images, each with a grid of discs."""

    def __init__(self):
        self.categories, self.image_ids = [Category(1, "disc")], list(range(1, 9))
        self.image_sizes = np.full((8, 2), 2000, np.int32)
        self.object_counts = np.full(8, OBJECTS)
        side = 60
        y, x = np.mgrid[:side, :side] - side / 2
        disc = (x**2 + y**2 < (side / 2 - 2) ** 2).astype(np.uint8)
        self._rles, boxes = [], []
        for number in range(OBJECTS):
            top, left = divmod(number, 33)
            bitmap = np.zeros((2000, 2000), np.uint8, order="F")
            bitmap[top * side :, left * side :][:side, :side] = disc
            self._rles.append(mask_api.encode(bitmap))
            boxes.append([left * side, top * side, (left + 1) * side, (top + 1) * side])
        self._boxes = np.asarray(boxes, np.float32)
        self._image = np.full((2000, 2000, 3), 90, np.uint8)

    def __len__(self):
        return 8

    def __getitem__(self, index, /):
        labels = np.zeros(OBJECTS, np.int32)
        crowd = labels.astype(bool)
        return Example(self._image, self.image_ids[index], self._boxes, labels, self._rles, crowd)

    def ground_truth(self):
        return coco_json(self)


if __name__ == "__main__":
    main(*sys.argv[1:])
