"""How far production's mask targets are from the references', on real masks.

Production learns from masks cropped to their boxes; the references pool masks of the whole
image, Detectron2 by default rasterises polygons in each RoI. RoIs are the objects' boxes with
each side moved by up to a tenth of the box.

    python scripts/compare_mask_targets.py FOLDER SPLIT
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from jaxseg.data import CocoFolder
from jaxseg.data.masks.polygon_targets import polygon_targets
from jaxseg.data.transforms.sample import make_sample
from jaxseg.types import MaskFrame, MaskSpec

CANVAS, SLOTS, SIZE = (640, 640), 100, 28


def main(folder: str, split: str) -> None:
    source = CocoFolder(folder).open(split)
    production = jax.jit(ops.mask_targets, static_argnames="size")
    pooled = jax.jit(ops.bitmap_targets, static_argnames=("size", "aligned"))
    crop_sizes, rng = (28, 56, 112, 224), np.random.default_rng(0)
    differing = dict.fromkeys(crop_sizes, 0)
    cells = objects = polygon_cells = polygon_differing = 0
    annotations = [a for a in source.ground_truth()["annotations"] if not a["iscrowd"]]
    for index in range(len(source)):
        example = source[index]

        def sample(frame: MaskFrame, size: int, example=example):  # type: ignore[no-untyped-def]
            return make_sample(
                example,
                bucket=CANVAS,
                resize=None,
                max_objects=SLOTS,
                needs=MaskSpec(frame, size),
                flipped=False,
            )

        whole = sample(MaskFrame.IMAGE, 1)
        sides = np.tile(whole.boxes[:, 2:] - whole.boxes[:, :2], 2)
        rois = whole.boxes + rng.uniform(-0.1, 0.1, whole.boxes.shape).astype(np.float32) * sides
        gt = jnp.arange(SLOTS)
        pooled_masks = pooled(whole.masks, rois, gt, whole.image_size, size=SIZE, aligned=True)
        reference = np.asarray(pooled_masks) >= 0.5
        used = whole.valid[:, None, None]
        for size in crop_sizes:
            crops = sample(MaskFrame.GRID_SAMPLE, size).masks
            targets = production(crops, whole.boxes, rois, gt, size=SIZE) >= 0.5
            differing[size] += int(((np.asarray(targets) != reference) & used).sum())
        objects += int(whole.valid.sum())
        cells += int(whole.valid.sum()) * SIZE * SIZE
        own = [a for a in annotations if a["image_id"] == example.image_id and all(a["bbox"][2:])]
        outlined = [i for i, a in enumerate(own) if isinstance(a["segmentation"], list)]
        exact = polygon_targets(
            [a["segmentation"] for a in own], rois[outlined], np.asarray(outlined, int), size=SIZE
        )
        polygon_differing += int((exact != reference[outlined]).sum())
        polygon_cells += exact.size
    print(f"{pathlib.Path(folder).name} {split}: {len(source)} images, {objects} objects")
    print("crop size | differing cells of 28x28 targets")
    for size, count in differing.items():
        print(f"{size:9} | {count / cells:.2%}")
    if polygon_cells:
        print(f" polygons | {polygon_differing / polygon_cells:.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
