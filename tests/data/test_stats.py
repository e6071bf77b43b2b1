import io
import json
import re
import sys

import cv2
import numpy as np
import pytest

from jaxseg.commands.cli import main
from jaxseg.commands.data_check import format_shared_images, format_stats
from jaxseg.data import Shapes, folder_config, write_coco
from jaxseg.data.issues import WARNINGS
from jaxseg.data.stats import scan, scan_folder
from tests.data.coco.small_folder import SIZE, content, write

SHAPES = Shapes(size=64, train_images=12, val_images=3)


def test_the_counts_match_the_examples():
    source = SHAPES.open("train")
    stats = scan(source, split="train", file="shapes", max_objects=3, bucket=(32, 8))
    examples = [source[i] for i in range(12)]
    counts = np.zeros((5, 3), int)
    for example in examples:
        for label, rle in zip(example.labels, example.rles, strict=True):
            area = cv2.countNonZero(decode(rle))
            counts[label, 0 if area < 1024 else 1] += 1
    np.testing.assert_array_equal(np.stack(list(stats.class_counts.values())), counts)
    assert stats.images == 12
    assert stats.empty_images == sum(len(e.boxes) == 0 for e in examples)
    crowded = [e for e in examples if len(e.boxes) > 3]
    assert {issue.where for issue in stats.issues} == {f"image id {e.image_id}" for e in crowded}
    assert stats.truncated_objects == sum(len(e.boxes) - 3 for e in crowded) > 0
    small = [b for e in examples for b in (e.boxes[:, 2:] - e.boxes[:, :2]) / 8 if b.min() < 1]
    assert stats.subpixel_objects == len(small)


def decode(rle):
    from pycocotools import mask as mask_api

    return mask_api.decode(rle)


def test_identical_images_are_found(tmp_path):
    write(tmp_path, content())  # both images have the same colour
    (tmp_path / "val.json").write_text((tmp_path / "train.json").read_text())
    splits = scan_folder(folder_config(tmp_path))
    assert [stats.split for stats in splits] == ["train", "val"]
    assert list(splits[0].ids_by_digest.values()) == [[7, 8]]
    text = format_stats(splits[0], 100, None)
    assert "  with identical pixels                  2\n    ids 7=8\n" in text
    assert format_shared_images(splits) == ["splits train and val share 1 images"]


def unwrap(text):
    """Undo the breaking of lines."""
    return " ".join(text.split())


def write_invalid(folder):
    """Write a folder with the issues `FOUND`."""
    data = content()
    data["images"].append({"id": 9, "file_name": "c.png", "height": 5, "width": 5})
    data["images"].append({"id": 10, "file_name": "d.png", "height": 5, "width": 5})
    data["images"].append({"id": 11, "file_name": "e.png", "height": 5, "width": 5})
    data["annotations"] += [
        data["annotations"][0] | {"id": n, "bbox": [0, 0, -1, 1]} for n in range(50, 75)
    ]
    data["annotations"][1]["segmentation"] = {"size": SIZE, "counts": [1, 2]}
    write(folder, data)
    (folder / "images" / "c.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "images" / "d.png"), np.zeros((6, 5, 3), np.uint8))


FOUND = {
    "image-missing": 1,
    "box-negative": 25,
    "rle-sum": 1,
    "box-zero": 1,
    "annotation-duplicate": 25,
    "image-unreadable": 1,
    "image-size-differs": 1,
}


def test_the_check_lists_all_issues(tmp_path, capsys):
    write_invalid(tmp_path)
    out = tmp_path / "issues.txt"
    arguments = ["data", "check", str(tmp_path), "--max-objects", "1", "--out", str(out)]
    assert main(arguments) == 1
    text = capsys.readouterr()
    for kind, count in FOUND.items():
        severity = "warnings" if kind in WARNINGS else "errors"
        assert f"{severity} {kind}: {count} in " in text.out
    assert re.search(r"warnings box-zero: 1 in \S*train\.json", unwrap(text.out))
    assert "  annotation id 2 (segmentation): the RLE's counts do not add up" in text.out
    assert "image id 9 (file_name): " in unwrap(text.out)
    assert "... and 5 more; --out FILE lists them all" in text.out
    assert all(len(line) <= 80 for line in text.out.splitlines() if str(tmp_path) not in line)
    assert not text.err  # no bar without a terminal
    listed = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(listed) == sum(FOUND.values())
    assert {"kind", "file", "where", "field", "message"} == listed[0].keys()


def test_the_status_is_0_without_errors(tmp_path, capsys):
    write(tmp_path, content())  # its box without area is a warning
    check = ["data", "check", str(tmp_path)]
    assert main(check) == 0
    out = capsys.readouterr().out
    assert "errors: none\nobjects that training skips, with boxes without area: 1\n" in out
    assert "has no area: training skips the object, whatever its mask is" in unwrap(out)
    assert main([*check, "--max-objects", "1", "--bucket", "64", "64"]) == 1
    out = capsys.readouterr().out
    assert "set max_objects to 2 or more" in unwrap(out)
    assert "below a pixel in 64x64" in out


def test_ignored_kinds_are_no_errors(tmp_path, capsys):
    write_invalid(tmp_path)
    check = [
        "data",
        "check",
        str(tmp_path),
        "--ignore-issues",
        "box-negative",
        "rle-sum",
        "image-missing",
    ]
    assert main(check) == 1
    assert "errors: 2, not counting ignored issues" in capsys.readouterr().out
    for name, size in (("c.png", (5, 5)), ("d.png", (5, 5))):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((*size, 3), np.uint8))
    assert main(check) == 0
    assert main([*check, "image-unreadable"]) == 1  # it cannot be ignored
    assert "'image-unreadable' cannot be ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "kind"),
    [('{"images', "file-json"), ("[]", "file-coco"), ('{"images": [], "annotations": [], '
     '"categories": []}', "split-empty")],
)  # fmt: skip
def test_other_splits_are_checked_after_an_unreadable_one(tmp_path, capsys, text, kind):
    write_coco(SHAPES.open("val"), tmp_path, "val")
    (tmp_path / "train.json").write_text(text)
    assert main(["data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"errors {kind}: 1" in out
    assert "split val\nimages                                   3" in out
    assert main(["data", "check", str(tmp_path), "--split", "val"]) == 0


def test_a_folder_without_data_is_an_error(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "has no split 'train' (found: none)" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "absent")]) == 1
    assert "no data folder" in capsys.readouterr().err


def test_sizes_of_zero_are_refused(tmp_path, capsys):
    write(tmp_path, content())
    assert main(["data", "check", str(tmp_path), "--bucket", "0", "5"]) == 1
    assert main(["data", "check", str(tmp_path), "--max-objects", "0"]) == 1
    assert capsys.readouterr().err.count("must be positive") == 2


def test_help_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 24


def test_half_of_a_surrogate_pair_is_an_issue(tmp_path, capsys):
    data = content()
    data["categories"][0]["name"] = "a\ud800"
    data["images"][1]["file_name"] = "b\ud800.png"
    folder = write(tmp_path, data)
    assert main(["data", "check", str(tmp_path)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "name 'a\\ud800' has half of a surrogate pair, which is no character" in out
    assert "file_name 'b\\ud800.png' has half of a surrogate pair" in out
    with pytest.raises(ValueError, match=r"half of a surrogate pair.* \[category-name\]"):
        folder.open("train")


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, monkeypatch):
    data = content()
    data["categories"][0]["name"] = "Zürich"
    write(tmp_path, data)
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["data", "check", str(tmp_path)]) == 0
    print("metrics of Zürich")  # as every later print of the program
    terminal.flush()
    assert terminal.buffer.getvalue().decode("ascii").count("Z\\xfcrich") == 2
