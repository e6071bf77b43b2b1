"""What each format loses is counted by file; broken files are errors that name them."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.data.importers import exports
from tests.data.importers.test_formats import read, run

SQUARE = [[2, 2], [12, 2], [12, 12], [2, 12]]


def labelme(folder, shapes, name="0", **fields):
    exports.save_image(folder / "0.png", 0)
    shapes = [
        shape if isinstance(shape, dict) else exports.labelme_shape(*shape) for shape in shapes
    ]
    exports.write_json(folder / f"{name}.json", exports.labelme_content(0, shapes=shapes, **fields))
    return folder


def import_one(folder, out, capsys, *arguments):
    """Import as one split; return the annotations and what was printed."""
    assert run(folder, out, "--val-fraction", "0", *arguments) == 0, capsys.readouterr().err
    content = json.loads((out / "train.json").read_text())
    return content["annotations"], capsys.readouterr().out


def fails(folder, tmp_path, capsys, *arguments):
    assert run(folder, tmp_path / "out", "--val-fraction", "0", *arguments) == 1
    return capsys.readouterr().err


# --- LabelMe ---


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


def test_images_elsewhere_are_found_by_the_flag(tmp_path, capsys):
    exports.write_json(tmp_path / "a" / "0.json", exports.labelme_content(0))
    exports.save_image(tmp_path / "photos" / "0.png", 0)
    assert "image that is missing" in fails(tmp_path / "a", tmp_path, capsys)
    arguments = ["--images", str(tmp_path / "photos")]
    assert len(import_one(tmp_path / "a", tmp_path / "out", capsys, *arguments)[0]) == 5


# --- YOLO ---


def yolo(folder, lines, yaml="train: images\nnames: [cell, dot]\n"):
    exports.save_image(folder / "images" / "0.png", 0)
    (folder / "labels").mkdir(parents=True)
    (folder / "labels" / "0.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(yaml)
    return folder


POLYGON = "1 0.1 0.1 0.5 0.1 0.5 0.5"


def test_yolo_lines_that_are_no_polygons_are_counted(tmp_path, capsys):
    lines = [
        "0 0.5 0.5 0.2 0.2",
        POLYGON,
        "",
        "0 nan 0.1 0.5 0.1 0.5 0.5",
        "0 a b",
        "0 1 1",
        "1 9 9 9 8 8 9",
    ]
    folder = yolo(tmp_path / "a", lines)
    exports.save_image(folder / "images" / "1.png", 1)
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert [a["category_id"] for a in annotations] == [2]
    for line in (
        "1 x box without a mask (line of 5 numbers) (labels/0.txt line 1)",
        "1 x polygon with numbers that are not finite (labels/0.txt line 4)",
        "1 x line that is not numbers (labels/0.txt line 5)",
        "1 x line that is no polygon of three points or more (labels/0.txt line 6)",
        "1 x polygon that extends beyond the image",
        "1 x label file that is missing: image kept without objects (images/1.png)",
        "there is no split val, which evaluation needs",
    ):
        assert line in printed, line


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nnames: [cell]\n", "0.txt line 1: class 1 is not in `names`"),
        ("train: images\nnames: 5\n", "`names` must be a list of class names, or a mapping"),
        ("train: images\nnames: [a, a]\n", "no name or one given twice"),
        ("train: images\nnames: [[a]]\n", "no name or one given twice"),
        ("train: gone\nnames: [a]\n", "there is no folder or list of images"),
        ("train: {a: 1}\nnames: [a]\n", "which is neither a folder nor a file"),
        ("names: [a]\n", "names no images: it needs train and val"),
        ("names: [a\ntrain: images", "is not valid YAML"),
        ("names: !!python/object/apply:os.system ['x']\n", "is not valid YAML"),
        ("- names: [a]\n", "does not hold a YAML mapping"),
        ("train: ../../up\nnames: [a, b]\n", "path outside the source"),
    ],
)
def test_a_broken_yaml_file_is_an_error(tmp_path, capsys, yaml, message):
    (tmp_path.parent / "up").mkdir(exist_ok=True)
    error = fails(yolo(tmp_path / "a", [POLYGON], yaml), tmp_path, capsys)
    assert message in error
    assert "data.yaml" in error or "0.txt" in error


def test_yolo_splits_are_folders_lists_and_text_files(tmp_path, capsys):
    folder = tmp_path / "a"
    for i, part in enumerate(("one", "two", "three")):
        exports.save_image(folder / "images" / part / f"{i}.png", i)
        label = folder / "labels" / part / f"{i}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("\n".join(map(exports.yolo_line, exports.scene(i))))
    (folder / "val.txt").write_text("./images/three/2.png\nimages/gone.png\n\n")
    (folder / "data.yaml").write_text(
        "path: /home/user/elsewhere\ntrain: [images/one, images/two]\nval: val.txt\n"
        "names:\n  0: cell\n  1: dot\n"
    )
    assert run(folder, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "split train: 2 images, 10 objects" in printed
    assert "split val: 1 images, 5 objects" in printed
    assert "1 x image that is missing (images/gone.png)" in printed
    assert len(read(tmp_path / "out")) == 15


# --- VIA ---


def via(folder, regions):
    exports.save_image(folder / "0.png", 0)
    entry = {"filename": "0.png", "size": 1, "regions": regions, "file_attributes": {}}
    exports.write_json(folder / "via.json", {"0.png1": entry})
    return folder


def region(attributes, **shape):
    return {"shape_attributes": shape, "region_attributes": attributes}


def test_via_shapes_are_converted_or_counted(tmp_path, capsys):
    points = {"all_points_x": [1, 5, 5], "all_points_y": [1, 1, 5]}
    kind = {"type": "a"}
    regions = [
        region(kind, name="rect", x=2, y=2, width=10, height=5),
        region(kind, name="circle", cx=30, cy=20, r=6),
        region(kind, name="ellipse", cx=30, cy=20, rx=12, ry=3, theta=np.pi / 2),
        region(kind, name="polyline", **points),
        region(kind, name="polygon", **(points | {"all_points_y": [1]})),
        region(kind, name="circle", cx=30, cy=20, r=None),
        region({"type": ""}, name="polygon", **points),
        region({"type": {"a": True, "b": False}}, name="polygon", **points),
        region({"type": "a", "note": "?"}, name="polygon", **points),
        "broken",
    ]
    folder = via(tmp_path / "a", regions)
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert annotations[0]["area"] == 50
    assert annotations[1]["area"] == pytest.approx(np.pi * 36, abs=6)
    assert annotations[2]["bbox"] == pytest.approx([27, 8, 6, 24], abs=1)  # turned upright
    assert len(annotations) == 5
    for line in (
        "1 x shape 'polyline' without an area (via.json: 0.png: regions[3])",
        "2 x polygon with values that are not numbers (via.json: 0.png: regions[4], ",
        "1 x region without one value of 'type', its class (via.json: 0.png: regions[6])",
        "1 x attributes of a region besides the class (via.json: 0.png: regions[8])",
        "1 x shape 'None' without an area (via.json: 0.png: regions[9])",
    ):
        assert line in printed, line


def test_the_class_attribute_of_via_is_chosen(tmp_path, capsys):
    square = {"name": "rect", "x": 2, "y": 2, "width": 10, "height": 5}
    folder = via(tmp_path / "a", [region({"kind": "a", "state": "b"}, **square)])
    error = fails(folder, tmp_path, capsys)
    assert "have the attributes kind, state: choose the one with the class by" in error
    assert "has the attribute 'x' of --class-attribute; there are kind, state" in fails(
        folder, tmp_path, capsys, "--class-attribute", "x"
    )
    assert run(folder, tmp_path / "o", "--val-fraction", "0", "--class-attribute", "state") == 0
    assert "  b: 1" in capsys.readouterr().out
    folder = via(tmp_path / "b", [region({}, **square)])
    assert run(folder, tmp_path / "p", "--val-fraction", "0") == 0
    assert "  object: 1" in capsys.readouterr().out


def test_via_3_counts_videos_and_metadata_without_images(tmp_path, capsys):
    exports.write_via3(tmp_path / "a", 2)
    content = json.loads((tmp_path / "a" / "project.json").read_text())
    content["metadata"] |= {
        "v": {"vid": "0", "xy": [2, 1, 1, 4, 4], "z": [0.5], "av": {"1": "0"}},
        "n": {"vid": "9", "xy": [2, 1, 1, 4, 4], "av": {}},
        "t": {"vid": "0", "xy": [], "av": {}},
        "l": {"vid": "0", "xy": [6, 1, 1, 4, 4, 5, 5], "av": {"1": "0"}},
        "u": {"vid": "0", "xy": ["7", 1, 1, 4, 4], "av": {"1": "0"}},
        "x": {"vid": "0", "xy": [7, 1, 1, 4, "a", 3, 3], "av": {"1": "0"}},
    }
    exports.write_json(tmp_path / "a" / "project.json", content)
    annotations, printed = import_one(tmp_path / "a", tmp_path / "out", capsys)
    assert len(annotations) == 10
    for line in (
        "1 x region of a video (project.json: metadata v)",
        "1 x metadata of no image (project.json: metadata n)",
        "1 x metadata without a region (project.json: metadata t)",
        "1 x shape 'polyline' without an area (project.json: metadata l)",
        "1 x shape '?' without an area (project.json: metadata u)",
        "1 x polygon with values that are not numbers (project.json: metadata x)",
    ):
        assert line in printed, line


# --- COCO ---


def test_invalid_coco_entries_and_added_fields_are_counted(tmp_path, capsys):
    exports.write_label_studio(tmp_path / "a", 3)
    content = exports.coco_content(range(3), "images/{}.png")
    first, second, third, fourth, fifth = content["annotations"][:5]
    first["segmentation"]["counts"] = "!"
    second["bbox"] = [0, 0, 1, 1]
    third["image_id"] = 99
    fourth["attributes"] = {"occluded": True}
    fifth["iscrowd"] = 1
    (tmp_path / "a" / "images" / "2.png").unlink()
    exports.write_json(tmp_path / "a" / "result.json", content)
    annotations, printed = import_one(tmp_path / "a", tmp_path / "out", capsys)
    assert len(annotations) == 3 + 5
    assert [a["iscrowd"] for a in annotations[:3]] == [0, 0, 1]
    for line in (
        "split train: 2 images, 7 objects and 1 crowds",
        "1 x rle-text (result.json: annotation id 1",
        "1 x annotation-image (result.json: annotation id 3",
        "1 x bbox or area, replaced by the mask's (result.json: annotation id 2",
        "1 x field 'attributes' (result.json: annotation id 4)",
        "1 x image-missing (result.json: image id 3",
    ):
        assert line in printed, line


def test_a_coco_file_is_imported_with_an_image_root(tmp_path, capsys):
    exports.write_json(tmp_path / "all.json", exports.coco_content(range(4)))
    for i in range(4):
        exports.save_image(tmp_path / "photos" / f"{i}.png", i)
    arguments = ["--images", str(tmp_path / "photos")]
    assert run(tmp_path / "all.json", tmp_path / "out", *arguments) == 0
    assert "divided by seed 0" in capsys.readouterr().out
    assert len(read(tmp_path / "out")) == 20


# --- masks ---


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


# --- all ---


@pytest.mark.parametrize("name", ["labelme", "via 2", "via 3", "label studio"])
def test_cut_json_is_an_error_that_names_the_file(tmp_path, capsys, name):
    write, _ = (exports.EXACT | exports.WITHIN_A_PIXEL)[name]
    write(tmp_path / "a", 2)
    path = sorted((tmp_path / "a").rglob("*.json"))[0]
    path.write_text(path.read_text()[:-40])
    error = fails(tmp_path / "a", tmp_path, capsys)
    assert path.name in error
    assert "is not valid JSON" in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_images_of_other_folders_get_unique_names(tmp_path, capsys):
    folder = tmp_path / "a"
    for i, part in enumerate(("x", "y")):
        exports.save_image(tmp_path / part / "0.png", i)
        path = str(tmp_path / part / "0.png")
        exports.write_json(folder / f"{i}.json", exports.labelme_content(i, imagePath=path))
    annotations, _ = import_one(folder, tmp_path / "out", capsys, "--allow-outside-files")
    assert len(annotations) == 10
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["0.png", "0_2.png"]


def test_an_embedded_image_of_another_size_is_counted(tmp_path, capsys):
    file = io.BytesIO()
    Image.new("RGB", (5, 5)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    folder = labelme(tmp_path / "a", [("a", SQUARE, "polygon")])
    exports.write_json(folder / "x.json", exports.labelme_content(8, imageData=data))
    _, printed = import_one(folder, tmp_path / "out", capsys)
    assert "1 x image that cannot be read (imageData of" in printed
