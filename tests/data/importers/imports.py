"""Import an export by the command, and read what it wrote."""

import json

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder
from tests.data.importers import exports

COUNT = 6
"""Largest number of scenes that `read` knows."""


def run(source, out, *arguments):
    return main(["data", "import", str(source), "--out", str(out), *arguments])


def import_one(folder, out, capsys, *arguments):
    """Import as one split; return the annotations and what was printed."""
    assert run(folder, out, "--val-fraction", "0", *arguments) == 0, capsys.readouterr().err
    content = json.loads((out / "train.json").read_text())
    return content["annotations"], capsys.readouterr().out


def fails(folder, tmp_path, capsys, *arguments):
    """Check that the import fails; return the error."""
    assert run(folder, tmp_path / "out", "--val-fraction", "0", *arguments) == 1
    return capsys.readouterr().err


def read(folder):
    """Return the (image, class name, bitmap) of all objects of the splits train and val."""
    found = []
    for split in ("train", "val"):
        source = CocoFolder(str(folder)).open(split)
        names = [category.name for category in source.categories]
        for i in range(len(source)):
            example = source[i]
            number = next(
                n for n in range(COUNT) if np.array_equal(exports.pixels(n), example.image)
            )
            for label, rle in zip(example.labels.tolist(), example.rles, strict=True):
                found.append((number, names[label], mask_api.decode(rle).astype(bool)))
    return found
