"""Examples with given masks, and sources of given examples, for tests."""

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data import coco_json
from jaxseg.data.source import Category, Example


def scene(bitmaps, size=None, boxes=None, iscrowd=None, seed=0) -> Example:
    """Return an image of noise with an object for each bitmap; boxes are tight by default."""
    bitmaps = [np.asarray(b, bool) for b in bitmaps]
    height, width = size or bitmaps[0].shape
    if boxes is None:
        boxes = [tight_box(b) or (0, 0, 0, 0) for b in bitmaps]
    rng = np.random.default_rng(seed)
    return Example(
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        image_id=1,
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(len(bitmaps), dtype=np.int32),
        rles=[mask_api.encode(np.asfortranarray(b, np.uint8)) for b in bitmaps],
        iscrowd=np.zeros(len(bitmaps), bool) if iscrowd is None else np.asarray(iscrowd, bool),
    )


def tight_box(bitmap):
    """Return the box `(x1, y1, x2, y2)` of the set pixels, half-open; None if there are none."""
    ys, xs = np.nonzero(bitmap)
    if not len(ys):
        return None
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def rectangle(height, width, x1, y1, x2, y2):
    bitmap = np.zeros((height, width), bool)
    bitmap[y1:y2, x1:x2] = True
    return bitmap


def blobs(rng, height, width, count):
    """Return masks of several parts each, with holes, some at the edges."""
    bitmaps = []
    for _ in range(count):
        bitmap = np.zeros((height, width), bool)
        for value in (True, True, False):
            (y1, y2), (x1, x2) = (np.sort(rng.integers(0, n + 1, 2)) for n in (height, width))
            bitmap[y1:y2, x1:x2] = value
        bitmap[rng.integers(height), rng.integers(width)] = True
        bitmaps.append(bitmap)
    return bitmaps


class Examples:
    """A source of examples in memory."""

    def __init__(self, *examples: Example):
        self._examples = examples
        self.categories = [Category(i, str(i)) for i in range(100)]
        self.image_ids = range(len(examples))
        self.image_sizes = np.asarray([e.image.shape[:2] for e in examples], np.int32)
        self.object_counts = None
        self.fingerprint = ""

    def __len__(self):
        return len(self._examples)

    def __getitem__(self, index, /):
        return self._examples[index]

    def ground_truth(self):
        return coco_json(self)
