"""Draws one picture for each augmentation, as `docs/augmentation.md` shows them.

Left the image as it is, beside it random draws, with boxes and masks as a model gets them. What
is dark grey is padding. Scenes are jaxseg's own, or the photographs of a folder.

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
from jaxseg.types import MaskFrame, MaskSpec

SIDE, DRAWS, SHOWN = 320, 4, 176
TINTS = np.random.default_rng(4).uniform(60, 255, (100, 3))
NOTHING = Augmentation(hflip_prob=0.0)
CHANGES = {
    "flip": Augmentation(hflip_prob=0.5),
    "scales": Augmentation(hflip_prob=0.0, min_sizes=(160, 200, 240, 280, 320)),
    "jitter": Augmentation(hflip_prob=0.0, lsj=ScaleJitter()),
    "crop": Augmentation(hflip_prob=0.0, crop=RandomSizeCrop(prob=1.0)),
    "copy_paste": Augmentation(lsj=ScaleJitter(0.5, 1.5), copy_paste=CopyPaste(1.0)),
    "color": Augmentation(hflip_prob=0.0, color=ColorJitter()),
}


def main(out: str, *photographs: str) -> None:
    config: SourceConfig = Shapes(size=SIDE, seed=5)
    split, index = "train", 22
    if photographs:
        config, split, index = CocoFolder(photographs[0]), photographs[1], int(photographs[2])
    source = config.open(split)
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, changes in CHANGES.items():
        drawn = [(NOTHING, 0)] + [(changes, seed) for seed in range(DRAWS)]
        panels = [
            draw(
                source, index, DataConfig(config, ((SIDE, SIDE),), (SIDE, SIDE), augmentation=c), s
            )
            for c, s in drawn
        ]
        strip = Image.fromarray(np.concatenate(panels, axis=1))
        if not photographs:
            strip = strip.quantize(48, dither=Image.Dither.NONE)  # small files
        strip.save(folder / f"{name}.png", optimize=True)


def draw(source: Source, index: int, config: DataConfig, seed: int) -> np.ndarray:
    """A sample with its objects, masks as tints and boxes as lines, uint8 `[s, s, 3]`."""
    sample = train_sample(
        source,
        index,
        np.random.default_rng([seed, 5]),
        config=config,
        bucket=config.buckets[0],
        needs=MaskSpec(MaskFrame.IMAGE, 1),
    )
    picture = sample.images.astype(np.float32)
    height, width = sample.image_size
    picture[height:] = picture[:, width:] = 40
    for mask, tint in zip(sample.masks[sample.valid], TINTS, strict=False):
        picture[mask] = 0.6 * picture[mask] + 0.4 * tint
    shrink = SHOWN / SIDE
    picture = cv2.resize(picture, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    for box, tint in zip(sample.boxes[sample.valid] * shrink, TINTS, strict=False):
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), tint.tolist(), 1)
    framed = np.pad(picture, ((0, 0), (0, 4), (0, 0)), constant_values=255)
    return np.clip(framed, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
