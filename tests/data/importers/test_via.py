"""VIA: shapes, the attribute of the class, and projects of version 3."""

import json

import numpy as np
import pytest

from tests.data.importers import exports
from tests.data.importers.imports import fails, import_one, run


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


def test_a_project_and_its_export_give_each_region_once(tmp_path, capsys):
    square = {"name": "rect", "x": 2, "y": 2, "width": 10, "height": 5}
    folder = via(tmp_path / "a", [region({"type": "a"}, **square)] * 2)
    exported = json.loads((folder / "via.json").read_text())
    exported["0.png1"]["regions"].append(region({"type": "b"}, **square))
    exports.write_json(folder / "project.json", {"_via_img_metadata": exported})
    annotations, printed = import_one(folder, tmp_path / "out", capsys)
    assert [a["category_id"] for a in annotations] == [1, 1, 2]
    assert "2 x region that another entry of the image has too (0.png, 0.png)" in printed


def test_a_checkbox_of_via_3_with_two_options_is_no_class(tmp_path, capsys):
    exports.write_via3(tmp_path / "a", 2)
    content = json.loads((tmp_path / "a" / "project.json").read_text())
    content["metadata"] |= {
        "two": {"vid": "0", "xy": [2, 1, 1, 4, 4], "av": {"1": "0,1"}},
        "one": {"vid": "0", "xy": [2, 1, 1, 4, 4], "av": {"1": "1"}},
    }
    exports.write_json(tmp_path / "a" / "project.json", content)
    annotations, printed = import_one(tmp_path / "a", tmp_path / "out", capsys)
    assert len(annotations) == 11
    assert {a["category_id"] for a in annotations} == {1, 2}
    assert "1 x region without one value of" in printed
    assert "(project.json: metadata two)" in printed
