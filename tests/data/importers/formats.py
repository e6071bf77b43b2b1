"""All formats of the tests, those with mask images among them."""

import numpy as np

from tests.data.importers import exports


def write_label_images(folder, count):
    """Write a 16-bit label image of each class."""
    for i in range(count):
        exports.save_image(folder / "images" / f"{i}.png", i)
        for name in exports.NAMES:
            labels = np.zeros(exports.SIZE, np.uint16)
            for number, thing in enumerate(exports.scene(i), 1):
                labels[thing.bitmap() & (thing.category == name)] = 300 * number
            exports.save_mask(folder / "masks" / name / f"{i}.png", labels)


def write_colour_masks(folder, count):
    for split, indices in exports.halves(count).items():
        for i in indices:
            exports.save_image(folder / split / "images" / f"{i}.png", i)
            for name in exports.NAMES:
                colours = np.zeros((*exports.SIZE, 3), np.uint8)
                for number, thing in enumerate(exports.scene(i), 1):
                    colours[thing.bitmap() & (thing.category == name)] = (0, number, 9)
                exports.save_mask(folder / split / "masks" / name / f"{i}.png", colours)


def write_mask_files(folder, count):
    for i in range(count):
        exports.save_image(folder / "images" / f"{i}.png", i)
        for number, thing in enumerate(exports.scene(i)):
            path = folder / "masks" / str(i) / thing.category / f"{number}.png"
            exports.save_mask(path, thing.bitmap() * np.uint8(255))


def write_data_science_bowl(folder, count):
    for i in range(count):
        exports.save_image(folder / f"id{i}" / "images" / f"id{i}.png", i)
        for number, thing in enumerate(exports.scene(i)):
            path = folder / f"id{i}" / "masks" / thing.category / f"{number}.png"
            exports.save_mask(path, thing.bitmap() * np.uint8(255))


EXACT = {
    "roboflow": (exports.write_roboflow, "coco"),
    "cvat": (exports.write_cvat, "coco"),
    "label studio": (exports.write_label_studio, "coco"),
    "labelme": (exports.write_labelme, "labelme"),
    "labelme with embedded images": (exports.write_labelme_embedded, "labelme"),
    "label images": (write_label_images, "masks"),
    "colours": (write_colour_masks, "masks"),
    "mask files": (write_mask_files, "masks"),
    "data science bowl": (write_data_science_bowl, "masks"),
}
WITHIN_A_PIXEL = {
    "yolo": (exports.write_yolo, "yolo"),
    "via 2": (exports.write_via2, "via"),
    "via 2 by split": (exports.write_via2_by_split, "via"),
    "via 3": (exports.write_via3, "via"),
}
ALL = EXACT | WITHIN_A_PIXEL
"""How to write each format, and the name of its reader."""
