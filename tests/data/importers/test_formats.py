"""The same scenes in every format give the same masks."""

import json
import os

import numpy as np
import pytest

from jaxseg.data import folder_config
from jaxseg.data.importers import READERS
from jaxseg.data.stats import scan_folder
from tests.data.importers import exports, formats
from tests.data.importers.imports import COUNT, read, run

FORMATS = formats.ALL


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_scene_gives_the_same_masks(tmp_path, name, capsys):
    write, expected_format = FORMATS[name]
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", COUNT)
    assert run(tmp_path / "export", tmp_path / "coco") == 0
    printed = capsys.readouterr().out
    assert f"format: {expected_format}\n" in printed
    expected = [
        (i, thing.category, thing.bitmap()) for i in range(COUNT) for thing in exports.scene(i)
    ]
    found = read(tmp_path / "coco")
    assert len(found) == len(expected)
    for number, category, bitmap in expected:
        same = [b for n, c, b in found if (n, c) == (number, category)]
        best = max(same, key=lambda b: (b & bitmap).sum() / (b | bitmap).sum())
        if name in formats.EXACT:
            np.testing.assert_array_equal(best, bitmap)
        else:
            assert exports.near(bitmap, best)
    assert not [
        issue for stats in scan_folder(folder_config(tmp_path / "coco")) for issue in stats.issues
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_detected_by_one_reader(tmp_path, name):
    write, expected_format = FORMATS[name]
    write(tmp_path, 2)
    assert [r.name for r in READERS if r.detect(tmp_path)] == [expected_format]


def test_counts_and_splits_are_printed(tmp_path, capsys):
    exports.write_labelme(tmp_path / "export", 5)
    assert run(tmp_path / "export", tmp_path / "coco", "--seed", "3") == 0
    printed = capsys.readouterr().out
    assert "no splits in the source: divided by seed 3, val_fraction 0.2" in printed
    assert "split train: 4 images, 20 objects\n  cell: 12\n  dot: 8\n" in printed
    assert "split val: 1 images, 5 objects" in printed
    assert "nothing was lost" in printed
    assert (tmp_path / "coco" / "images" / "a" / "1.png").is_file()


def test_folders_of_splits_beside_other_images_are_named(tmp_path, capsys):
    for i, part in enumerate(("train", "test", "more")):
        exports.write_json(tmp_path / "a" / part / f"{i}.json", exports.labelme_content(i))
        exports.save_image(tmp_path / "a" / part / f"{i}.png", i)
    assert run(tmp_path / "a", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "(the folders test, train too, since other images are beside them)" in printed


def test_ids_are_unique_over_the_splits_and_categories_the_same(tmp_path):
    exports.write_roboflow(tmp_path / "export", 4)
    assert run(tmp_path / "export", tmp_path / "coco") == 0
    train, val = (
        json.loads((tmp_path / "coco" / f"{s}.json").read_text()) for s in ("train", "val")
    )
    assert train["categories"] == val["categories"]
    assert [c["name"] for c in train["categories"]] == ["cell", "dot"]  # not Roboflow's parent
    for entries in ("images", "annotations"):
        ids = [entry["id"] for content in (train, val) for entry in content[entries]]
        assert ids == list(range(1, len(ids) + 1))


def test_polygons_stay_polygons_and_holes_become_rle(tmp_path):
    exports.write_labelme(tmp_path / "export", 2)
    assert run(tmp_path / "export", tmp_path / "coco", "--val-fraction", "0") == 0
    annotations = json.loads((tmp_path / "coco" / "train.json").read_text())["annotations"]
    kinds = [type(a["segmentation"]).__name__ for a in annotations]
    assert kinds == ["dict", "list", "list", "list", "list"] * 2
    assert [len(a["segmentation"]) for a in annotations[1:5]] == [2, 1, 1, 1]  # parts


def test_an_output_that_is_not_empty_is_refused_before_reading(tmp_path, capsys):
    exports.write_labelme(tmp_path / "export", 2)
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine.txt").write_text("x")
    assert run(tmp_path / "export", tmp_path / "coco") == 1
    assert "is not empty: choose another --out" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "coco").iterdir()] == ["mine.txt"]


def test_the_output_may_be_a_link_or_the_current_folder(tmp_path, monkeypatch, capsys):
    exports.write_labelme(tmp_path / "export", 2)
    for name in ("linked", "current"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("linked")
    monkeypatch.chdir(tmp_path / "current")
    for out in (tmp_path / "link", "."):
        assert run(tmp_path / "export", out) == 0, capsys.readouterr().err
    for name in ("linked", "current"):
        written = sorted(path.name for path in (tmp_path / name).iterdir())
        assert written == ["images", "train.json", "val.json"]
    assert sorted(p.name for p in (tmp_path / "current").iterdir()) == sorted(os.listdir("."))


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    exports.write_labelme(tmp_path / "export", 2)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("jaxseg.data.importers.write.shutil.copyfileobj", fail)
    assert run(tmp_path / "export", tmp_path / "coco") == 1
    assert "disk full" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco", "export"]
    assert not list((tmp_path / "coco").iterdir())


def test_an_unknown_or_ambiguous_format_is_an_error(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert run(tmp_path / "none", tmp_path / "a") == 1
    assert "fits none of the formats coco, yolo, labelme, via, masks" in capsys.readouterr().err
    exports.write_labelme(tmp_path / "both", 2)
    exports.write_yolo(tmp_path / "both", 2)
    assert run(tmp_path / "both", tmp_path / "a") == 1
    assert "fits several formats: yolo, labelme; choose one by" in capsys.readouterr().err
    assert run(tmp_path / "both", tmp_path / "a", "--format", "yolo") == 0
    assert run(tmp_path / "both", tmp_path / "b", "--format", "voc") == 1
    assert "--format voc is unknown; use one of coco" in capsys.readouterr().err
    assert run(tmp_path / "absent", tmp_path / "b") == 1
    assert "no file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--val-fraction", "1"], "--val-fraction 1 must be from 0 to below 1"),
        (["--class-attribute", "x"], "--class-attribute is for the format via; this is labelme"),
        (["--images", "absent"], "no image folder absent"),
    ],
)
def test_options_that_do_not_fit_are_errors(tmp_path, capsys, arguments, message):
    exports.write_labelme(tmp_path / "export", 2)
    assert run(tmp_path / "export", tmp_path / "coco", *arguments) == 1
    assert message in capsys.readouterr().err
