"""LabelMe: shapes, groups, masks, and paths of images."""

import base64
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.data.importers import exports
from tests.data.importers.imports import fails, import_one

SQUARE = [[2, 2], [12, 2], [12, 12], [2, 12]]


def labelme(folder, shapes, name="0", **fields):
    exports.save_image(folder / "0.png", 0)
    shapes = [
        shape if isinstance(shape, dict) else exports.labelme_shape(*shape) for shape in shapes
    ]
    exports.write_json(folder / f"{name}.json", exports.labelme_content(0, shapes=shapes, **fields))
    return folder


def test_labelme_shapes_are_converted_or_counted(tmp_path, capsys):
    shapes = [
        ("a", [[12, 12], [2, 2]], "rectangle"),
        ("a", [[30, 20], [30, 26]], "circle"),
        ("a", [[1, 1], [5, 5]], "line"),
        ("a", [[1, 1]], "point"),
        ("a", [[1, 1], [5, 5], [6, 9]], "linestrip"),
        ("a", [[1, 1], [5, 5]], "polygon"),
        ("a", [[1, 1], [5, float("nan")], [3, 3]], "polygon"),
        ("a", [[1, 1], [5, "x"], [3, 3]], "polygon"),
        ("a", [[1, 1], [5, 900], [3, 3]], "polygon"),
        ("a", [[5.2, 5.2], [5.3, 5.2], [5.3, 5.3]], "polygon"),
        {"points": SQUARE},
        exports.labelme_shape("b", SQUARE, None, description="odd"),
    ]
    annotations, printed = import_one(labelme(tmp_path / "a", shapes), tmp_path / "out", capsys)
    assert [a["category_id"] for a in annotations] == [1, 1, 2]
    assert [a["area"] for a in annotations][::2] == [100, 100]
    assert annotations[1]["area"] == pytest.approx(np.pi * 36, abs=6)
    for line in (
        "1 x shape 'line' without an area (0.json: shapes[2])",
        "1 x shape 'point' without an area (0.json: shapes[3])",
        "1 x shape 'linestrip' without an area",
        "1 x polygon of fewer than three points (0.json: shapes[5])",
        "1 x polygon with numbers that are not finite (0.json: shapes[6])",
        "1 x shape with points that are not numbers (0.json: shapes[7])",
        "1 x polygon that extends beyond the image by more than",
        "1 x object whose mask has no pixel (0.png: object 2)",
        "1 x shape without a label (0.json: shapes[10])",
        "1 x description or flags of a shape (0.json: shapes[11])",
    ):
        assert line in printed, line


def test_labelme_parts_of_a_group_are_joined_also_with_masks(tmp_path, capsys):
    mask = exports.png_base64(np.ones((4, 6), np.uint8))
    shapes = [
        exports.labelme_shape("a", SQUARE, "polygon", group_id=1),
        exports.labelme_shape("a", [[60, 30], [65, 33]], "mask", group_id=1, mask=mask),
        exports.labelme_shape("b", SQUARE, "polygon", group_id=1),
    ]
    annotations, _ = import_one(labelme(tmp_path / "a", shapes), tmp_path / "out", capsys)
    assert [a["area"] for a in annotations] == [100 + 4 * 4, 100]  # the mask is cut at the edge


@pytest.mark.parametrize("data", ["%%%", base64.b64encode(b"no image").decode(), None, 5])
def test_a_broken_mask_is_counted(tmp_path, capsys, data):
    shapes = [("a", SQUARE, "polygon"), exports.labelme_shape("a", [[1, 1]], "mask", mask=data)]
    annotations, printed = import_one(labelme(tmp_path / "a", shapes), tmp_path / "out", capsys)
    assert len(annotations) == 1
    assert "1 x mask that cannot be read (0.json: shapes[1]" in printed


def test_labelme_images_and_files_that_do_not_fit_are_counted(tmp_path, capsys):
    folder = labelme(tmp_path / "a", [("a", SQUARE, "polygon")])
    exports.write_json(folder / "missing.json", exports.labelme_content(1, imagePath="gone.png"))
    exports.write_json(folder / "size.json", exports.labelme_content(1, imageWidth=9))
    exports.save_image(folder / "1.png", 1)
    exports.write_json(folder / "again.json", exports.labelme_content(0))
    exports.write_json(folder / "other.json", {"a": 1})
    (folder / "bad.png").write_bytes(b"x")
    exports.write_json(folder / "bad.json", exports.labelme_content(1, imagePath="bad.png"))
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert len(annotations) == 1
    for line in (
        "1 x image that is missing (missing.json: imagePath 'gone.png')",
        "1 x image of another size than its annotations say",
        "1 x second annotation file of an image (again.json)",
        "1 x JSON file without LabelMe's shapes (other.json)",
        "1 x image that cannot be read",
        "2 x image without a JSON file, left out (1.png, bad.png)",
    ):
        assert line in printed, line


def test_a_windows_path_to_another_folder_is_followed(tmp_path, capsys):
    exports.save_image(tmp_path / "a" / "photos" / "0.png", 0)
    content = exports.labelme_content(0, imagePath="..\\photos\\0.png")
    exports.write_json(tmp_path / "a" / "labels" / "x.json", content)
    assert len(import_one(tmp_path / "a", tmp_path / "out", capsys)[0]) == 5
    assert (tmp_path / "out" / "images" / "photos" / "0.png").is_file()


@pytest.mark.parametrize("absolute", [True, False])
def test_paths_outside_the_source_need_permission(tmp_path, capsys, absolute):
    exports.save_image(tmp_path / "secret.png", 0)
    path = str(tmp_path / "secret.png") if absolute else "../secret.png"
    folder = labelme(tmp_path / "a", [("a", SQUARE, "polygon")])
    exports.write_json(folder / "x.json", exports.labelme_content(0, imagePath=path))
    _, printed = import_one(folder, tmp_path / "out", capsys)
    assert "1 x path outside the source; if you trust it, --allow-outside-files" in printed
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    annotations, _ = import_one(folder, tmp_path / "all", capsys, "--allow-outside-files")
    assert len(annotations) == 6
    images = sorted(p.name for p in (tmp_path / "all" / "images").iterdir())
    assert images == ["0.png", "secret.png"]


def test_paths_outside_a_relative_source_need_permission(tmp_path, capsys, monkeypatch):
    exports.save_image(tmp_path / "secret.png", 0)
    folder = labelme(tmp_path / "a", [("a", SQUARE, "polygon")])
    exports.write_json(folder / "x.json", exports.labelme_content(0, imagePath="../secret.png"))
    monkeypatch.chdir(folder)
    _, printed = import_one(pathlib.Path(), tmp_path / "out", capsys)
    assert "1 x path outside the source" in printed


def test_images_elsewhere_are_found_by_the_flag(tmp_path, capsys):
    exports.write_json(tmp_path / "a" / "0.json", exports.labelme_content(0))
    exports.save_image(tmp_path / "photos" / "0.png", 0)
    assert "image that is missing" in fails(tmp_path / "a", tmp_path, capsys)
    for path in ("C:\\me\\0.png", "/home/me/0.png"):
        exports.write_json(tmp_path / "a" / "0.json", exports.labelme_content(0, imagePath=path))
    arguments = ["--images", str(tmp_path / "photos")]
    assert len(import_one(tmp_path / "a", tmp_path / "out", capsys, *arguments)[0]) == 5


def test_an_embedded_image_of_another_size_is_counted(tmp_path, capsys):
    file = io.BytesIO()
    Image.new("RGB", (5, 5)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    folder = labelme(tmp_path / "a", [("a", SQUARE, "polygon")])
    exports.write_json(folder / "x.json", exports.labelme_content(8, imageData=data))
    _, printed = import_one(folder, tmp_path / "out", capsys)
    assert "1 x image that cannot be read (imageData of" in printed
