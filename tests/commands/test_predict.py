"""`jaxseg predict`: overlays and COCO results of image files."""

import json
import os
import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxseg import data, predictor
from jaxseg.commands import eval as eval_command
from jaxseg.commands import predict as predict_command
from jaxseg.commands import weights as weights_command
from jaxseg.commands.cli import main
from jaxseg.evaluation import coco


def test_predict_draws_and_writes_coco_results(workdir, tmp_path, capsys):
    paths = []
    for number, size in enumerate([(64, 64), (90, 40)]):
        paths.append(str(tmp_path / f"image{number}.png"))
        cv2.imwrite(paths[-1], np.full((*size, 3), 120, np.uint8))
    assert main(["predict", str(workdir), *paths, "--out", str(tmp_path / "out")]) == 0
    assert "image1.png" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {r["file_name"] for r in results} == set(paths)
    for result in results:
        size = [64, 64] if result["image_id"] == 1 else [90, 40]
        assert result["segmentation"]["size"] == size


def write_images(folder, count):
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def test_what_was_predicted_before_a_broken_image_is_kept(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predictor, "EVAL_BATCH_PER_DEVICE", 1)
    paths, out = write_images(tmp_path, 8), tmp_path / "out"
    arguments = ["predict", str(workdir), *map(str, paths), "--out", str(out)]
    assert main(arguments) == 0
    complete = json.loads((out / "predictions.json").read_text())
    paths[7].write_bytes(paths[7].read_bytes()[:-200])  # its header is intact
    assert main(arguments) == 1
    assert f"{paths[7]} cannot be decoded" in capsys.readouterr().err
    found = read_lines(out / "predictions.incomplete.jsonl")
    last = max(result["image_id"] for result in found)
    assert last in (6, 7)
    assert found == [result for result in complete if result["image_id"] <= last]
    assert json.loads((out / "predictions.json").read_text()) == complete


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_signal_ends_predict_and_keeps_its_results(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predictor, "EVAL_BATCH_PER_DEVICE", 1)
    save, out = predict_command.save_png, tmp_path / "out"

    def save_until_stopped(path, picture):
        save(path, picture)
        if path.name.startswith("003"):
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = ["predict", str(workdir), *map(str, write_images(tmp_path, 5)), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(predict_command, "save_png", save_until_stopped)
        assert main(arguments) == 75
    assert "stopped by SIGTERM" in capsys.readouterr().err
    found = read_lines(out / "predictions.incomplete.jsonl")
    assert {result["image_id"] for result in found} == {1, 2}
    assert not (out / "predictions.json").exists()
    assert main(arguments) == 0
    complete = json.loads((out / "predictions.json").read_text())
    assert found == [result for result in complete if result["image_id"] <= 2]
    assert not (out / "predictions.incomplete.jsonl").exists()


def test_images_are_not_all_in_memory_at_once(tmp_path, monkeypatch):
    paths, decoded = write_images(tmp_path, 8), []
    read = data.image_files.read_image
    monkeypatch.setattr(
        data.image_files, "read_image", lambda path: decoded.append(path) or read(path)
    )
    source = data.ImageFiles(paths)
    assert not decoded
    assert source[3].image.shape == (64, 64, 3)
    assert decoded == [paths[3]]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_sizes_are_those_of_the_rotated_images(tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    (size,) = data.ImageFiles([path]).image_sizes.tolist()
    assert size == [40, 20] == list(data.read_image(path).shape[:2])


def never(*_, **__):
    pytest.fail("the output was not tried first")


@pytest.mark.parametrize("name", ["file", "x" * 300, "file/below"])
def test_an_output_that_cannot_be_written_is_an_error_before_any_work(
    workdir, tmp_path, capsys, monkeypatch, name
):
    (tmp_path / "file").touch()
    (image,) = write_images(tmp_path, 1)
    out = str(tmp_path / name)
    for module in (predictor, weights_command):
        monkeypatch.setattr(module, "restore", never)
    assert main(["eval", str(workdir), "--out", out]) == 1
    assert f"results cannot be written to {out}" in capsys.readouterr().err
    assert main(["predict", str(workdir), str(image), "--out", out]) == 1
    assert "choose another --out" in capsys.readouterr().err
    if name != "file":
        assert main(["weights", "export", str(workdir), "--out", out]) == 1
        assert main(["data", "check", str(tmp_path), "--out", out]) == 1


def test_predictions_are_kept_if_the_metrics_fail(workdir, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(coco, "COCOeval", fail)
    with pytest.raises(MemoryError):
        eval_command.evaluate(workdir, tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text())


def test_an_overlay_of_an_image_with_a_long_name(workdir, tmp_path):
    path = tmp_path / ("x" * 251 + ".jpg")
    cv2.imwrite(str(path), np.full((64, 64, 3), 120, np.uint8))
    assert main(["predict", str(workdir), str(path), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_a_file_name_that_is_not_utf8_is_predicted_on(workdir, tmp_path, capsys):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.new("RGB", (64, 64)).save(path)
    arguments = ["--out", str(tmp_path / "out"), "--threshold", "0"]
    assert main(["predict", str(workdir), path, *arguments]) == 0
    assert "caf\\udce9.png: " in capsys.readouterr().out
    assert [p.stem[:7] for p in (tmp_path / "out").glob("*.png")] == ["001_caf"]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {result["file_name"] for result in results} <= {path}
