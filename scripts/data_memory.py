"""Print the memory of the data pipeline after each epoch of training batches.

All augmentations are on. The first table is for a split of COCO-format data, the second for images
of 1,000 objects each; neither should grow. Memory is that of this process and its workers, with
shared pages counted once (PSS).

    python scripts/data_memory.py FOLDER SPLIT [WORKERS]
"""

import sys
from typing import Any

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
    Source,
    coco_json,
    train_batches,
)
from jaxseg.data.source import Category
from jaxseg.types import BoxCrops, TargetSpec

EPOCHS, BATCH_SIZE = 10, 4
AUGMENTATION = Augmentation(lsj=ScaleJitter(), copy_paste=CopyPaste(), color=ColorJitter())
CROWDED_IMAGES, OBJECTS, CROWDED_SIZE, DISC_SIZE = 8, 1000, 2000, 60


def main(folder: str, split: str, workers: str = "2") -> None:
    config = DataConfig(
        CocoFolder(folder),
        buckets=((1024, 1024),),
        min_size=1024,
        max_size=1024,
        augmentation=AUGMENTATION,
        num_workers=int(workers),
    )
    source = CocoFolder(folder).open(split)
    print(f"{folder} {split}, {len(source)} images, {workers} workers")
    print_memory(source, config)
    crowded = CrowdedSource()
    print(f"{len(crowded)} images of {OBJECTS} objects")
    print_memory(crowded, config)


def print_memory(source: Source, config: DataConfig) -> None:
    """Print the memory after each epoch, in MiB."""
    targets = TargetSpec(BoxCrops(28))
    stream = train_batches(source, config, targets, batch_size=BATCH_SIZE, seed=0)
    print("| epoch | MiB |\n| --- | --- |")
    for epoch in range(1, EPOCHS + 1):
        for _ in range(-(-len(source) // BATCH_SIZE)):
            next(stream)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        total = sum(process.memory_full_info().pss for process in processes)
        print(f"| {epoch} | {total / 2**20:.0f} |", flush=True)
    stream.close()


class CrowdedSource:
    """A source of large images, each with a grid of discs."""

    def __init__(self) -> None:
        self.categories = [Category(1, "disc")]
        self.image_ids = list(range(1, CROWDED_IMAGES + 1))
        self.image_sizes = np.full((CROWDED_IMAGES, 2), CROWDED_SIZE, np.int32)
        self.object_counts = np.full(CROWDED_IMAGES, OBJECTS)
        y, x = np.mgrid[:DISC_SIZE, :DISC_SIZE] - DISC_SIZE / 2
        disc = (x**2 + y**2 < (DISC_SIZE / 2 - 2) ** 2).astype(np.uint8)
        self._rles, boxes = [], []
        for number in range(OBJECTS):
            row, column = divmod(number, CROWDED_SIZE // DISC_SIZE)
            top, left = row * DISC_SIZE, column * DISC_SIZE
            bitmap = np.zeros((CROWDED_SIZE, CROWDED_SIZE), np.uint8, order="F")
            bitmap[top : top + DISC_SIZE, left : left + DISC_SIZE] = disc
            self._rles.append(mask_api.encode(bitmap))
            boxes.append([left, top, left + DISC_SIZE, top + DISC_SIZE])
        self._boxes = np.asarray(boxes, np.float32)
        self._image = np.full((CROWDED_SIZE, CROWDED_SIZE, 3), 90, np.uint8)

    def __len__(self) -> int:
        return CROWDED_IMAGES

    def __getitem__(self, index: int, /) -> Example:
        labels = np.zeros(OBJECTS, np.int32)
        iscrowd = labels.astype(bool)
        return Example(self._image, self.image_ids[index], self._boxes, labels, self._rles, iscrowd)

    def ground_truth(self) -> dict[str, Any]:
        return coco_json(self)


if __name__ == "__main__":
    main(*sys.argv[1:])
