"""YOLO: lines, `data.yaml` and the ways to name images."""

import pytest

from jaxseg.data import IMAGE_SUFFIXES
from tests.data.importers import exports
from tests.data.importers.imports import fails, import_one, read, run


def yolo(folder, lines, yaml="train: images\nnames: [cell, dot]\n"):
    exports.save_image(folder / "images" / "0.png", 0)
    (folder / "labels").mkdir(parents=True)
    (folder / "labels" / "0.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(yaml)
    return folder


POLYGON = "1 0.1 0.1 0.5 0.1 0.5 0.5"


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_image_that_predict_takes_from_a_folder_is_imported(tmp_path, capsys, suffix):
    folder = yolo(tmp_path / "a", [POLYGON])
    (folder / "images" / "0.png").rename(folder / "images" / f"0{suffix}")
    annotations, _ = import_one(folder, tmp_path / "out", capsys)
    assert len(annotations) == 1


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
        ("train: images\nnames: [a, b]\nkpt_shape: [4, 3]\n", "boxes with keypoints, not masks"),
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


def test_an_image_that_a_split_lists_twice_is_read_once(tmp_path, capsys):
    yaml = "train: [images, ./images, list.txt]\nnames: [cell, dot]\n"
    folder = yolo(tmp_path / "a", [POLYGON], yaml)
    (folder / "list.txt").write_text("images/0.png\n")
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert len(annotations) == 1
    assert "2 x image that train lists again (images/0.png, images/0.png)" in printed


def test_a_polygon_that_would_take_all_memory_is_counted(tmp_path, capsys):
    folder = yolo(tmp_path / "a", [POLYGON, "0" + " 0 0 1 1" * 200])
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert len(annotations) == 1
    assert "1 x polygon with an outline of more than 64 times the image's" in printed
