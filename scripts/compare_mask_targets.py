"""Compare the mask targets of training with the references', on real masks.

Training uses masks cropped to their boxes. The references pool masks of the whole image, and
Detectron2 by default rasterises the polygons in each RoI. The RoIs here are the objects' boxes with
each side moved by up to a tenth of the box. PointRend's targets at random points of each RoI are
compared for the objects whose longer side is more than 224 pixels.

    python scripts/compare_mask_targets.py FOLDER SPLIT
"""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from jaxseg.data import CocoFolder, Example
from jaxseg.data.masks.polygon_targets import polygon_targets
from jaxseg.data.transforms.sample import Sample, make_sample
from jaxseg.types import BoxCrops, ImageMasks, TargetSpec

BUCKET, MAX_OBJECTS, SIZE = (640, 640), 100, 28
CROP_SIZES = (28, 56, 112, 224)
POINTS, LARGE = 784, 224

crop_targets = jax.jit(ops.mask_targets, static_argnames="size")
pooled_targets = jax.jit(ops.bitmap_targets, static_argnames=("size", "aligned"))
crop_points = jax.jit(ops.crop_points)
sample_masks = jax.jit(lambda masks, *x: ops.indexed_point_sample(masks[..., None], *x)[..., 0])


def main(folder: str, split: str) -> None:
    source = CocoFolder(folder).open(split)
    annotations = [a for a in source.ground_truth()["annotations"] if not a["iscrowd"]]
    rng, point_rng = np.random.default_rng(0), np.random.default_rng(1)
    differing = dict.fromkeys(CROP_SIZES, 0)
    point_differences: dict[int, list[np.ndarray]] = {size: [] for size in CROP_SIZES}
    objects = large_objects = polygon_cells = polygon_differing = 0
    for index in range(len(source)):
        example = source[index]
        whole = sample(example, ImageMasks(1))
        sides = np.tile(whole.boxes[:, 2:] - whole.boxes[:, :2], 2)
        rois = whole.boxes + rng.uniform(-0.1, 0.1, whole.boxes.shape).astype(np.float32) * sides
        gt_index = jnp.arange(MAX_OBJECTS)
        pooled = pooled_targets(
            whole.masks, rois, gt_index, whole.image_size, size=SIZE, aligned=True
        )
        reference = np.asarray(pooled) >= 0.5  # [MAX_OBJECTS, SIZE, SIZE]
        points = point_rng.random((MAX_OBJECTS, POINTS, 2), np.float32)
        points = np.asarray(ops.points_in_image(jnp.asarray(rois), jnp.asarray(points)))
        values = np.asarray(sample_masks(whole.masks, gt_index, points / np.float32(BUCKET[::-1])))
        large = whole.valid & (sides.max(1) > LARGE)
        large_objects += int(large.sum())
        for size in CROP_SIZES:
            crops = sample(example, BoxCrops(size)).masks
            targets = crop_targets(crops, whole.boxes, rois, gt_index, size=SIZE) >= 0.5
            differs = (np.asarray(targets) != reference) & whole.valid[:, None, None]
            differing[size] += int(differs.sum())
            at_points = np.asarray(crop_points(crops, whole.boxes, points, gt_index))
            point_differences[size].append(np.abs(at_points - values)[large].ravel())
        objects += int(whole.valid.sum())
        of_image = [
            a for a in annotations if a["image_id"] == example.image_id and all(a["bbox"][2:])
        ]
        differs = from_polygons(of_image, rois, reference)
        polygon_differing += int(differs.sum())
        polygon_cells += differs.size
    print(f"{pathlib.Path(folder).name} {split}: {len(source)} images, {objects} objects")
    print("crop size | differing cells of 28x28 targets")
    for size, count in differing.items():
        print(f"{size:9} | {count / (objects * SIZE * SIZE):.2%}")
    if polygon_cells:
        print(f" polygons | {polygon_differing / polygon_cells:.2%}")
    print(f"crop size | mean difference at points of {large_objects} large objects, above one half")
    for size, parts in point_differences.items():
        values = np.concatenate(parts)
        if len(values):
            print(f"{size:9} | {values.mean():.2%}, {(values > 0.5).mean():.2%}")


def sample(example: Example, masks: BoxCrops | ImageMasks) -> Sample:
    """Return the example at its original size, with the masks of one kind."""
    return make_sample(
        example,
        bucket=BUCKET,
        min_max_size=None,
        max_objects=MAX_OBJECTS,
        targets=TargetSpec(masks),
        flipped=False,
    )


def from_polygons(
    annotations: list[dict[str, Any]], rois: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Return where the targets from polygons differ: bool `[P, SIZE, SIZE]`, P with polygons."""
    indices = [i for i, a in enumerate(annotations) if isinstance(a["segmentation"], list)]
    targets = polygon_targets(
        [a["segmentation"] for a in annotations],
        rois[indices],
        np.asarray(indices, int),
        size=SIZE,
    )
    return targets != reference[indices]


if __name__ == "__main__":
    main(*sys.argv[1:])
