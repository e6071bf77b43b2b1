"""`jaxseg.load(...).predict(...)`: inputs, results and their equality with `jaxseg predict`."""

import json
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

import jaxseg
from jaxseg import data
from jaxseg.commands.cli import main
from jaxseg.detector import widen_limits
from tests.tiny import tiny_config, tiny_solov2_config


@pytest.fixture(scope="module")
def detector(workdir):
    return jaxseg.load(workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images of different sizes, whose names are not in the order of their sizes."""
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (64, 64, 3)), ("a.JPG", (40, 90, 3)), ("c.png", (120, 50, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path / name)
    (path / "notes.txt").touch()
    (path / ".hidden.png").touch()
    return path


def same(found, expected):
    assert found.to_coco() == expected.to_coco()
    assert found.size == expected.size


def test_results_equal_those_of_the_command(detector, workdir, folder, tmp_path):
    files = sorted(path for path in folder.iterdir() if data.expand_path(folder).count(path))
    out = tmp_path / "out"
    assert main(["predict", str(workdir), *map(str, files), "--out", str(out)]) == 0
    written = json.loads((out / "predictions.json").read_text())
    found = detector.predict(files)
    for result in written:
        result.pop("file_name")
    assert [result for instances in found for result in instances.to_coco()] == written
    assert len(written) == 24


def test_an_image_may_be_given_in_any_form(detector, folder):
    path = folder / "b.png"
    expected = detector.predict(path)
    pixels = data.read_image(path)
    for image in (str(path), pixels, Image.open(path), Image.open(path).convert("RGBA")):
        same(detector.predict(image), expected)
    assert expected.file == path
    assert detector.predict(pixels).file is None
    np.testing.assert_array_equal(expected.image, pixels)


def test_several_images_come_back_in_their_order(detector, folder):
    in_folder = detector.predict(folder)
    assert [x.file.name for x in in_folder] == ["a.JPG", "b.png", "c.png"]
    assert [x.image_id for x in in_folder] == [1, 2, 3]
    assert [x.size for x in in_folder] == [(40, 90), (64, 64), (120, 50)]
    pattern = detector.predict(str(folder / "**" / "*.png"))
    assert [x.file.name for x in pattern] == ["b.png", "c.png"]
    mixed = detector.predict([data.read_image(folder / "c.png"), folder / "a.JPG"])
    assert [x.size for x in mixed] == [(120, 50), (40, 90)]
    assert detector.predict([]) == []
    same(detector.predict([folder / "b.png"])[0], detector.predict(folder / "b.png"))


@pytest.mark.parametrize(
    ("shape", "dtype", "advice"),
    [
        ((8, 8, 3), np.float32, r"astype\(np.uint8\)"),
        ((8, 8, 3), np.int64, r"image.astype\(np.uint8\)"),
        ((8, 8), np.uint8, "np.stack"),
        ((8, 8, 1), np.uint8, "np.repeat"),
        ((8, 8, 4), np.uint8, "alpha"),
        ((3, 8, 8), np.uint8, "np.moveaxis"),
        ((8, 8, 5), np.uint8, "three channels"),
        ((2, 8, 8, 3), np.uint8, r"list\(images\)"),
        ((0, 8, 3), np.uint8, "no pixels"),
        ((8,), np.uint8, r"\[h, w, 3\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_advice(detector, shape, dtype, advice):
    with pytest.raises(ValueError, match=advice):
        detector.predict(np.zeros(shape, dtype))


def test_other_inputs_are_refused(detector, tmp_path):
    with pytest.raises(TypeError, match="not a int"):
        detector.predict(7)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        detector.predict(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="no image files"):
        detector.predict(tmp_path)
    with pytest.raises(FileNotFoundError, match="no image file matches"):
        detector.predict(str(tmp_path / "*.png"))
    for arguments in ({"threshold": 2.0}, {"max_detections": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be"):
            detector.predict(np.zeros((8, 8, 3), np.uint8), **arguments)


def test_threshold_and_number_are_arguments(detector, folder):
    everything = detector.predict(folder / "b.png")
    best = detector.predict(folder / "b.png", max_detections=3)
    same(best, everything[:3])
    threshold = float(everything.scores[2])
    same(detector.predict(folder / "b.png", threshold=threshold), best)
    assert len(detector._predictors) == 1  # compiled once
    more = detector.predict(folder / "b.png", max_detections=50)
    assert len(everything) == 8
    assert len(more) == 50
    np.testing.assert_allclose(more.scores[:8], everything.scores, rtol=1e-5)


def test_limits_are_widened_but_never_narrowed():
    for config in (tiny_config(), tiny_solov2_config()):
        assert widen_limits(config, None, None) == widen_limits(config, 0.5, 3) == config
    config = widen_limits(tiny_solov2_config(), None, 50)
    assert config.detections_per_image == 50
    assert config.pre_nms_topk == 100
    box = widen_limits(tiny_config(), None, 50).box
    assert (box.detections_per_image, box.pre_nms_topk) == (50, 100)


def test_instances_are_in_the_images_size_and_can_be_selected(detector, folder):
    found = detector.predict(folder / "c.png")
    assert found.masks.shape == (8, 120, 50)
    assert found.masks.dtype == bool
    np.testing.assert_array_equal(found.masks[1], mask_api.decode(found.rles[1]).astype(bool))
    assert found.boxes.dtype == np.float32
    assert (found.boxes[:, 2] <= 50).all()
    assert (found.boxes[:, 3] <= 120).all()
    assert found.names == [detector.names[label] for label in found.labels]
    chosen = found.scores >= found.scores[3]
    for index in (chosen, [0, 1, 2, 3], slice(4), np.arange(4)):
        same(found[index], found[:4])
    same(found[-1], found[7:])
    assert len(found[[]]) == 0
    assert found[[]].masks.shape == (0, 120, 50)
    assert [len(x) for x in found] == [1] * 8
    with pytest.raises(IndexError):
        found[8]
    assert "c.png" in repr(found)


def test_instances_are_drawn_and_converted(detector, folder):
    found = detector.predict(folder / "b.png")
    picture = found.draw()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert (picture != found[[]].draw()).any()
    with pytest.raises(ValueError, match=r"uint8 \[64, 64, 3\]"):
        found.draw(np.zeros((8, 8, 3), np.uint8))
    assert {result["image_id"] for result in found.to_coco(image_id=77)} == {77}


def test_supervision_is_not_needed_until_it_is_used(detector, folder, monkeypatch):
    found = detector.predict(folder / "b.png")
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        found.to_supervision()


def test_to_supervision(detector, folder):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = detector.predict(folder / "b.png")
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    np.testing.assert_array_equal(detections.mask, found.masks)
    assert detections["class_name"].tolist() == found.names
    assert found[[]].to_supervision().is_empty()


def test_bgr_is_not_rgb(detector, folder):
    path = folder / "b.png"
    same(detector.predict(cv2.imread(str(path))[..., ::-1]), detector.predict(path))


def test_the_first_use_is_logged_and_the_detector_says_what_it_is(workdir, folder, caplog):
    caplog.set_level("INFO")
    detector = jaxseg.load(str(workdir), step=6)
    assert "MaskRCNN" in repr(detector)
    assert "step 6" in repr(detector)
    assert detector.names[0] == "disc"
