"""Folders of masks that do not fit."""

import numpy as np
import pytest
from PIL import Image

from tests.data.importers import exports
from tests.data.importers.imports import fails, import_one


def masked(folder, image="0.png", **masks):
    exports.save_image(folder / "images" / image, 0)
    for name, array in masks.items():
        exports.save_mask(folder / "masks" / f"{name}.png", array)
    return folder


def test_masks_that_do_not_fit_are_counted(tmp_path, capsys):
    labels = np.zeros(exports.SIZE, np.uint8)
    labels[2:5, 3:9] = 7
    folder = masked(tmp_path / "a", **{"0": labels, "stray": labels, "1": labels[1:]})
    exports.save_image(folder / "images" / "1.png", 1)
    exports.save_image(folder / "images" / "2.png", 2)
    exports.save_image(folder / "images" / "3.png", 3)
    Image.fromarray(labels).save(folder / "masks" / "3.jpg")
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert [a["area"] for a in annotations] == [18]
    for line in (
        "2 x label image with one value: read as one object, even if it shows more",
        "1 x mask of no image (masks/stray.png)",
        "1 x image of another size than its annotations say",
        "1 x image without a mask, left out (images/2.png)",
        "1 x mask that cannot be read",
        "1 x image without a readable mask, left out (images/3.png)",
        "JPEG changes the values of a mask: save it as PNG",
    ):
        assert line in printed, line


def test_palette_masks_are_read_by_index(tmp_path, capsys):
    labels = np.zeros(exports.SIZE, np.uint8)
    labels[2:5, 3:9], labels[5:9, 3:9] = 1, 2  # touching, and the same colour in the palette
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.reshape(-1).tolist())
    palette.putpalette([0, 0, 0, 9, 9, 9, 9, 9, 9])
    folder = masked(tmp_path / "a")
    (folder / "masks").mkdir()
    palette.save(folder / "masks" / "0.png")
    annotations, _ = import_one(folder, tmp_path / "out", capsys)
    assert [a["area"] for a in annotations] == [18, 24]


def test_an_image_of_which_no_mask_can_be_read_is_left_out(tmp_path, capsys):
    labels = np.zeros(exports.SIZE, np.uint8)
    labels[2:5, 3:9] = 7
    folder = masked(tmp_path / "a", **{"0": labels})
    exports.save_image(folder / "images" / "1.png", 1)
    (folder / "masks" / "1.png").write_bytes(b"no image")
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert len(annotations) == 1
    assert "split train: 1 images" in printed
    assert "1 x image without a readable mask, left out (images/1.png)" in printed


@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_classes_with_the_names_of_images_are_refused(tmp_path, capsys, nested):
    labels = np.zeros(exports.SIZE, np.uint8)
    labels[2:5, 3:9] = 7
    folder = tmp_path / "a"
    for i in range(3):
        exports.save_image(folder / "images" / f"{i}.png", i)
        for category in range(2):
            name = f"{i}/x.png" if nested else f"{i}.png"
            exports.save_mask(folder / "masks" / str(category) / name, labels)
    error = fails(folder, tmp_path, capsys)
    assert "may be a mask of the image '0', or of " in error
    assert "rename the folders" in error


def test_folders_of_images_may_have_numbered_masks(tmp_path, capsys):
    labels = np.zeros(exports.SIZE, np.uint8)
    labels[2:5, 3:9] = 7
    folder = tmp_path / "a"
    for i in range(4):
        exports.save_image(folder / "images" / f"{i}.png", i)
    for i, count in enumerate((4, 2, 5)):
        for number in range(count):
            exports.save_mask(folder / "masks" / str(i) / f"{number}.png", labels)
    annotations, _ = import_one(folder, tmp_path / "out", capsys)
    assert [a["image_id"] for a in annotations] == [1] * 4 + [2] * 2 + [3] * 5
