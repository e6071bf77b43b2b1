"""The pages of the documentation, their blocks of code, and the folder in which these run."""

import pathlib
import re
import shutil
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxseg.data import write_coco
from tests.commands.tiny_run import SHAPES
from tests.conftest import ROOT
from tests.data.importers.exports import write_labelme

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "_build" not in path.parts
)
LANGUAGES = ("python", "bash", "console", "text", "{toctree}", "{eval-rst}")
"""What a block may be: code that runs, lines that are parsed only, text, or a part of the page."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    file: str
    """The file that the block is written to, named on its first line; "" if it has none."""
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^```(\S*) *([^\n]*)\n(.*?)^```", text, re.DOTALL | re.M)
    return [Block(*block) for block in found]


def prepare_folder(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Write what the blocks of a page may use.

    - `my-data/`: a COCO folder of small scenes, with the splits train and val
    - `export.json`, `photos/`: one COCO file and its images, and `photo.jpg`
    - `export/`: a folder of LabelMe
    - `runs/mine`: the workdir of a tiny trained Mask R-CNN
    """
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), folder / "my-data", split)
    shutil.copy(folder / "my-data" / "train.json", folder / "export.json")
    shutil.copytree(folder / "my-data" / "images", folder / "photos")
    write_labelme(folder / "export", 6)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    (folder / "runs").mkdir()
    shutil.copytree(workdir, folder / "runs" / "mine")
