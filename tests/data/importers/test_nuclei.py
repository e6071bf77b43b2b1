"""Real masks, written as LabelMe and as YOLO and imported, are the same masks."""

import shutil

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data import CocoFolder
from jaxseg.data.masks.regions import bitmap_bounds
from tests.data.importers import exports
from tests.data.importers.imports import run

COUNT = 20
_SCALE = 8


def outlines(bitmap):
    """Return the outer outlines and the holes of a mask along its pixels' edges."""
    top, left, bottom, right = bitmap_bounds(bitmap)
    # Contours run through pixel centres, so those of an enlarged mask are near the edges.
    large = np.kron(bitmap[top:bottom, left:right], np.ones((_SCALE, _SCALE), np.uint8))
    contours, tree = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    points = [(c.reshape(-1, 2) + 0.5) / _SCALE + (left, top) for c in contours]
    is_hole = [parent >= 0 for parent in tree[0, :, 3]]
    outers = [p.tolist() for p, hole in zip(points, is_hole, strict=True) if not hole]
    return outers, [p.tolist() for p, hole in zip(points, is_hole, strict=True) if hole]


def write_labelme(folder, source, things):
    for i, objects in enumerate(things):
        shapes = []
        for group, (outers, holes, bitmap) in enumerate(objects):
            if holes:
                mask = exports.png_base64(bitmap)
                shapes.append(exports.labelme_shape("nucleus", [[0, 0]], "mask", mask=mask))
                continue
            for part in outers:
                shapes.append(exports.labelme_shape("nucleus", part, "polygon", group_id=group))
        path = source.image_path(i)
        shutil.copy(path, folder / path.name)
        height, width = source.image_sizes[i].tolist()
        size = {"imageHeight": height, "imageWidth": width}
        content = exports.labelme_content(0, shapes=shapes, imagePath=path.name, **size)
        exports.write_json(folder / f"{path.stem}.json", content)


def write_yolo(folder, source, things):
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("train: images\nnames: {0: nucleus}\n")
    for i, objects in enumerate(things):
        path = source.image_path(i)
        shutil.copy(path, folder / "images" / path.name)
        lines = []
        for outers, holes, _ in objects:
            points = exports.bridged(exports.Thing("nucleus", outers, holes))
            relative = np.asarray(points) / source.image_sizes[i][::-1]
            lines.append("0 " + " ".join(f"{v:.6f}" for v in relative.reshape(-1)))
        (folder / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("write", [write_labelme, write_yolo])
def test_real_masks_survive_an_import(shared, tmp_path, write):
    folder = shared / "data" / "nuclei"
    if not folder.is_dir():
        pytest.skip(f"development data not found at {folder}")
    source = CocoFolder(str(folder)).open("mini_train")
    bitmaps = [[mask_api.decode(rle) for rle in source[i].rles] for i in range(COUNT)]
    things = [[(*outlines(bitmap), bitmap) for bitmap in own] for own in bitmaps]
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", source, things)
    assert run(tmp_path / "export", tmp_path / "coco", "--val-fraction", "0") == 0
    imported = CocoFolder(str(tmp_path / "coco")).open("train")
    assert len(imported) == COUNT
    rows = {imported.image_path(i).name: i for i in range(COUNT)}
    ious = []
    for i, own in enumerate(bitmaps):
        example = imported[rows[source.image_path(i).name]]
        np.testing.assert_array_equal(example.image, source[i].image)
        assert len(example.rles) == len(own)
        for rle, bitmap in zip(example.rles, own, strict=True):
            found = mask_api.decode(rle)
            ious.append((found & bitmap).sum() / (found | bitmap).sum())
    assert len(ious) > 400
    assert min(ious) == 1
