"""Write one picture for each augmentation to a folder: the pictures of `docs/augmentation.md`.

The rows are images: two photographs of scikit-image's data (public domain and CC0, annotated in
`photographs.json` beside this script), and a scene that jaxseg draws. In each row the first panel
is the image without augmentation; the others are random draws, with boxes and masks as a model
gets them. Dark grey is padding. Needs `pip install scikit-image`.

    python scripts/draw_augmentations.py OUT
"""

import pathlib
import shutil
import sys
import tempfile

import cv2
import numpy as np
from PIL import Image

from jaxseg.data import Augmentation, CocoFolder, DataConfig, Shapes
from jaxseg.data.source import Source, SourceConfig
from jaxseg.data.transforms.augmentation import ColorJitter, CopyPaste, RandomSizeCrop, ScaleJitter
from jaxseg.data.transforms.sample import train_sample
from jaxseg.types import ImageMasks, TargetSpec
from jaxseg.visualize.draw import instance_color

SIZE, PANEL_SIZE, GAP, TITLE = 512, 200, 4, 22
TITLES = ("no augmentation", "draw 1", "draw 2", "draw 3")
NONE = Augmentation(hflip_prob=0.0)
AUGMENTATIONS = {
    "flip": Augmentation(hflip_prob=0.5),
    "min_sizes": Augmentation(hflip_prob=0.0, min_sizes=(160, 200, 240, 280, 320)),
    "lsj": Augmentation(hflip_prob=0.0, lsj=ScaleJitter()),
    "crop": Augmentation(hflip_prob=0.0, crop=RandomSizeCrop(prob=1.0)),
    "copy_paste": Augmentation(lsj=ScaleJitter(0.5, 1.5), copy_paste=CopyPaste(1.0)),
    "color": Augmentation(hflip_prob=0.0, color=ColorJitter()),
}


def main(out: str) -> None:
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        photographs = prepare_photographs(pathlib.Path(temporary))
        images = [(photographs, 0), (photographs, 1), (Shapes(size=SIZE, seed=5), 21)]
        for name, augmentation in AUGMENTATIONS.items():
            rows = [draw_row(config, index, augmentation) for config, index in images]
            picture = np.concatenate([draw_titles(rows[0].shape[1]), *rows], axis=0)
            Image.fromarray(picture).save(folder / f"{name}.jpg", quality=88, optimize=True)


def prepare_photographs(folder: pathlib.Path) -> CocoFolder:
    """Copy the photographs and their annotations to a folder in COCO's layout."""
    import skimage.data

    (folder / "annotations").mkdir()
    annotations = pathlib.Path(__file__).with_name("photographs.json")
    shutil.copy(annotations, folder / "annotations" / "instances_photographs.json")
    photographs = pathlib.Path(skimage.data.__file__).parent
    (folder / "photographs").mkdir()
    for name in ("coffee.png", "astronaut.png"):
        shutil.copy(photographs / name, folder / "photographs")
    return CocoFolder(str(folder), train="photographs", val="photographs")


def draw_row(config: SourceConfig, index: int, augmentation: Augmentation) -> np.ndarray:
    source = config.open("train")
    panels = [draw_sample(source, index, data_config(config, NONE), 0)]
    for seed in range(len(TITLES) - 1):
        panels.append(draw_sample(source, index, data_config(config, augmentation), seed))
    return np.concatenate(panels, axis=1)


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
    colors = [instance_color(number) for number in range(sample.valid.sum())]
    panel = sample.images.astype(np.float32)
    height, width = sample.image_size
    panel[height:] = panel[:, width:] = 40
    for mask, color in zip(sample.masks[sample.valid], colors, strict=False):
        panel[mask] = 0.6 * panel[mask] + 0.4 * np.asarray(color)
    scale = PANEL_SIZE / SIZE
    panel = cv2.resize(panel, (PANEL_SIZE, PANEL_SIZE), interpolation=cv2.INTER_AREA)
    for box, color in zip(sample.boxes[sample.valid] * scale, colors, strict=False):
        x1, y1, x2, y2 = np.round(box).astype(int).tolist()
        cv2.rectangle(panel, (x1, y1), (x2 - 1, y2 - 1), color, 1)
    framed = np.pad(panel, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.clip(framed, 0, 255).astype(np.uint8)


def draw_titles(width: int) -> np.ndarray:
    bar = np.full((TITLE, width, 3), 255, np.uint8)
    for column, title in enumerate(TITLES):
        corner = (column * (PANEL_SIZE + GAP) + 2, TITLE - 7)
        cv2.putText(bar, title, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return bar


if __name__ == "__main__":
    main(*sys.argv[1:])
