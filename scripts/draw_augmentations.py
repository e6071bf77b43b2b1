"""Write one picture for each augmentation to a folder: the pictures of `docs/augmentation.md`.

The first panel is the image without augmentation, the others are random draws, with boxes and
masks as a model gets them. Dark grey is padding. The image is a scene that jaxseg draws, or number
INDEX of a split of COCO-format data.

    python scripts/draw_augmentations.py OUT
    python scripts/draw_augmentations.py OUT FOLDER SPLIT INDEX
"""

import pathlib
import sys

import cv2
import numpy as np
from PIL import Image

from jaxseg.data import Augmentation, CocoFolder, DataConfig, Shapes
from jaxseg.data.source import Source, SourceConfig
from jaxseg.data.transforms.augmentation import ColorJitter, CopyPaste, RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.sample import train_sample
from jaxseg.types import ImageMasks, TargetSpec

SIZE, DRAWS, PANEL_SIZE = 320, 4, 176
COLORS = np.random.default_rng(4).uniform(60, 255, (100, 3))
NONE = Augmentation(hflip_prob=0.0)
AUGMENTATIONS = {
    "flip": Augmentation(hflip_prob=0.5),
    "min_sizes": Augmentation(hflip_prob=0.0, min_sizes=(160, 200, 240, 280, 320)),
    "lsj": Augmentation(hflip_prob=0.0, lsj=ScaleJitter()),
    "crop": Augmentation(hflip_prob=0.0, crop=RandomSizeCrop(prob=1.0)),
    "copy_paste": Augmentation(lsj=ScaleJitter(0.5, 1.5), copy_paste=CopyPaste(1.0)),
    "color": Augmentation(hflip_prob=0.0, color=ColorJitter()),
}


def main(out: str, *coco_image: str) -> None:
    config: SourceConfig = Shapes(size=SIZE, seed=5)
    split, index = "train", 22
    if coco_image:
        config, split, index = CocoFolder(coco_image[0]), coco_image[1], int(coco_image[2])
    source = config.open(split)
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, augmentation in AUGMENTATIONS.items():
        panels = [draw_sample(source, index, data_config(config, NONE), 0)]
        for seed in range(DRAWS):
            panels.append(draw_sample(source, index, data_config(config, augmentation), seed))
        strip = Image.fromarray(np.concatenate(panels, axis=1))
        if not coco_image:
            strip = strip.quantize(48, dither=Image.Dither.NONE)  # small files
        strip.save(folder / f"{name}.png", optimize=True)


def data_config(source: SourceConfig, augmentation: Augmentation) -> DataConfig:
    return DataConfig(
        source, ((SIZE, SIZE),), min_size=SIZE, max_size=SIZE, augmentation=augmentation
    )


def draw_sample(source: Source, index: int, config: DataConfig, seed: int) -> np.ndarray:
    """Return a training sample with tinted masks and outlined boxes, uint8 `[h, w, 3]`."""
    sample = train_sample(
        source,
        index,
        np.random.default_rng([seed, 5]),
        config=config,
        bucket=config.buckets[0],
        targets=TargetSpec(ImageMasks(1)),
    )
    assert sample.masks is not None
    panel = sample.images.astype(np.float32)
    height, width = sample.image_size
    panel[height:] = panel[:, width:] = 40
    for mask, color in zip(sample.masks[sample.valid], COLORS, strict=False):
        panel[mask] = 0.6 * panel[mask] + 0.4 * color
    scale = PANEL_SIZE / SIZE
    panel = cv2.resize(panel, (PANEL_SIZE, PANEL_SIZE), interpolation=cv2.INTER_AREA)
    for box, color in zip(sample.boxes[sample.valid] * scale, COLORS, strict=False):
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        cv2.rectangle(panel, (x1, y1), (x2 - 1, y2 - 1), color.tolist(), 1)
    framed = np.pad(panel, ((0, 0), (0, 4), (0, 0)), constant_values=255)
    return np.clip(framed, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
