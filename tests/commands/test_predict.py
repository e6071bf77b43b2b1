"""`jaxseg predict`: overlays and COCO results of image files."""

import dataclasses
import json
import os
import pathlib
import signal

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

import jaxseg
from jaxseg import data, predictor
from jaxseg.commands import eval as eval_command
from jaxseg.commands import predict as predict_command
from jaxseg.commands import weights as weights_command
from jaxseg.commands.cli import main
from jaxseg.commands.prediction_files import PredictionFiles, dataset_annotations, label_map
from jaxseg.commands.video import open_video, read_frames
from jaxseg.evaluation import Prediction, coco
from jaxseg.instances import Instances
from tests.commands.tiny_run import SHAPES


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


def test_what_was_predicted_before_a_broken_image_is_kept(workdir, tmp_path, capsys):
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


def test_folders_and_patterns_are_searched_for_images(workdir, tmp_path, capsys):
    (tmp_path / "photos" / "below").mkdir(parents=True)
    write_images(tmp_path / "photos" / "below", 1)
    write_images(tmp_path / "photos", 2)
    (tmp_path / "photos" / "notes.txt").touch()
    for given, names in (
        ([tmp_path / "photos"], ["0.jpg", "1.jpg"]),
        ([tmp_path / "photos" / "**"], ["0.jpg", "1.jpg", "below/0.jpg"]),
        ([tmp_path / "photos" / "1*", tmp_path / "photos" / "0.jpg"], ["1.jpg", "0.jpg"]),
    ):
        out = tmp_path / "out"
        assert main(["predict", str(workdir), *map(str, given), "--out", str(out)]) == 0
        capsys.readouterr()
        images = json.loads((out / "dataset.json").read_text())["images"]
        files = [str(tmp_path / "photos" / name) for name in names]
        assert [image["source_file_name"] for image in images] == files
        assert [image["id"] for image in images] == list(range(1, len(names) + 1))
    assert main(["predict", str(workdir), str(tmp_path / "*.gif"), "--out", str(out)]) == 1
    assert "no image file matches" in capsys.readouterr().err


def test_the_dataset_is_a_coco_folder_with_its_images(workdir, tmp_path, capsys):
    paths, out = write_images(tmp_path, 2), tmp_path / "out"
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (60, 40), (90, 30, 200)).save(tmp_path / "rotated.jpg", exif=exif)
    given = [*map(str, paths), str(tmp_path / "rotated.jpg")]
    arguments = ["--out", str(out), "--threshold", "0"]
    assert main(["predict", str(workdir), *given, *arguments]) == 0
    assert main(["data", "check", str(out), "--split", "dataset"]) == 0
    source = data.CocoFolder(str(out), train="dataset", val="dataset").open("val")
    names = [category.name for category in SHAPES.open("val").categories]
    assert [category.name for category in source.categories] == names
    assert source.image_sizes.tolist() == [[64, 64], [64, 64], [60, 40]]
    written = json.loads((out / "dataset.json").read_text())["annotations"]
    results = json.loads((out / "predictions.json").read_text())
    for index, path in enumerate(given):
        example = source[index]
        np.testing.assert_array_equal(example.image, data.read_image(pathlib.Path(path)))
        expected = {r["segmentation"]["counts"] for r in results if r["image_id"] == index + 1}
        assert {rle["counts"].decode() for rle in example.rles} <= expected
    assert len(written) > 5
    assert all(0 < annotation["score"] <= 1 for annotation in written)
    assert (out / "images" / "001_0.jpg").is_symlink()
    capsys.readouterr()


def test_label_pngs_hold_the_number_of_each_pixels_instance(workdir, tmp_path):
    (path,), out = write_images(tmp_path, 1), tmp_path / "out"
    arguments = ["--out", str(out), "--threshold", "0", "--masks"]
    assert main(["predict", str(workdir), str(path), *arguments]) == 0
    labels = np.asarray(Image.open(out / "masks" / "001_0.png"))
    entries = json.loads((out / "masks" / "001_0.json").read_text())
    results = json.loads((out / "predictions.json").read_text())
    assert cv2.imread(str(out / "masks" / "001_0.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert [entry["id"] for entry in entries] == list(range(1, len(results) + 1))
    covered = np.zeros((64, 64), bool)
    for entry, result in zip(entries, results, strict=True):
        assert entry["score"] == result["score"]
        mask = mask_api.decode(result["segmentation"]).astype(bool)
        np.testing.assert_array_equal(labels == entry["id"], mask & ~covered)
        covered |= mask
    np.testing.assert_array_equal(labels == 0, ~covered)


def instances(rles, scores, labels, size=(20, 30)):
    boxes = np.zeros((len(scores), 4), np.float32) + np.float32([1, 1, 9, 9])
    found = Prediction(1, boxes, np.asarray(scores, np.float32), np.asarray(labels, int), rles)
    categories = [data.Category(3, "a"), data.Category(7, "b")]
    return Instances(found, categories, size, np.zeros((*size, 3), np.uint8))


def test_annotations_that_training_would_refuse_are_left_out():
    mask, empty = np.zeros((2, 20, 30), np.uint8)
    mask[5:15, 20:28] = 1
    rles = [mask_api.encode(np.asfortranarray(m)) for m in (mask, empty, mask, mask)]
    found = dataset_annotations(instances(rles, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1]), first_id=5)
    assert [(a["id"], a["category_id"]) for a in found] == [(5, 3), (6, 7)]
    assert found[0]["bbox"] == [20, 5, 8, 10]  # the mask's, wherever the model saw the box
    assert found[0]["area"] == 80
    (box,) = dataset_annotations(instances(None, [0.9], [1]), first_id=1)
    assert box["segmentation"] == [[1, 1, 9, 1, 9, 9, 1, 9]]
    with pytest.raises(ValueError, match="leave out --masks"):
        label_map(instances(None, [0.9], [1]))


def test_an_image_behind_a_linked_folder_is_linked(tmp_path):
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "below")
    (image,) = write_images(tmp_path / "real", 1)
    found = dataclasses.replace(
        instances(None, [0.9], [1], (64, 64)), source=tmp_path / "link" / ".." / "0.jpg"
    )
    with PredictionFiles(tmp_path, found.categories, len(found.categories), masks=False) as files:
        files.add(found, found, "001_0", {"file_name": "0.jpg"})
    assert (tmp_path / "images" / "001_0.jpg").resolve() == image


def test_a_rerun_removes_its_own_pictures_of_other_inputs_alone(workdir, tmp_path):
    paths, out = write_images(tmp_path, 3), tmp_path / "out"
    command = ["predict", str(workdir), "--masks", "--out", str(out)]
    assert main([*command, *map(str, paths[:2])]) == 0
    (out / "002_mine.png").write_text("another's file")
    (out / "images" / "mine.jpg").write_text("another's file")
    names = {"": ["001_0.png"], "masks": ["001_0.json", "001_0.png"], "images": ["001_0.jpg"]}
    assert all((out / folder / name).exists() for folder in names for name in names[folder])
    with (out / "written_files.jsonl").open("a") as file:  # what a kill or a stranger may leave
        file.write('"../0.jpg"\n"masks"\n".."\n"images/../../1.jpg"\n5\n"002_m')
    # The overlay of the first run is now an input itself.
    assert main([*command, str(paths[2]), str(out / "002_1.png")]) == 0
    left = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert left == [
        "001_2.png", "002_002_1.png", "002_1.png", "002_mine.png", "dataset.json",
        "images/001_2.jpg", "images/002_002_1.png", "images/mine.jpg",
        "masks/001_2.json", "masks/001_2.png", "masks/002_002_1.json", "masks/002_002_1.png",
        "predictions.json", "written_files.jsonl",
    ]  # fmt: skip
    assert all(path.exists() for path in paths)
    assert len(read_lines(out / "written_files.jsonl")) == 8


def write_video(path, frames, noise=0):
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    if not writer.isOpened():
        pytest.skip("OpenCV has no codec for the test's video")
    for number in range(frames):
        drawn = 20 * number + rng.integers(0, noise + 1, (32, 48, 3))
        writer.write(drawn.clip(0, 255).astype(np.uint8))
    writer.release()


def test_a_videos_frames_are_numbered_and_drawn(workdir, tmp_path, capsys):
    write_video(tmp_path / "clip.avi", 11)
    (image,), out = write_images(tmp_path, 1), tmp_path / "out"
    arguments = ["--every", "3", "--threshold", "0", "--out", str(out)]
    assert main(["predict", str(workdir), str(tmp_path / "clip.avi"), str(image), *arguments]) == 0
    assert "clip.avi: 4 frames: " in capsys.readouterr().out
    images = json.loads((out / "dataset.json").read_text())["images"]
    assert [entry["id"] for entry in images] == [1, 2, 3, 4, 5]
    assert [entry.get("source_frame") for entry in images] == [None, 0, 3, 6, 9]
    results = json.loads((out / "predictions.json").read_text())
    assert {result["frame"] for result in results if result["image_id"] == 4} == {6}
    (drawn,) = out.glob("002_clip.*")
    video = open_video(drawn)
    assert len(list(read_frames(video))) == 4
    assert abs(video.frames_per_second - 10 / 3) < 0.1
    frame = data.read_image(out / "images" / "002_clip_frame000009.jpg")
    assert abs(float(frame.mean()) - 180) < 5
    assert main(["data", "check", str(out), "--split", "dataset"]) == 0
    assert not list(out.glob("*partial*"))


def test_a_damaged_video_is_reported(tmp_path, caplog):
    path = tmp_path / "clip.avi"
    write_video(path, 12, noise=200)
    assert len(list(read_frames(open_video(path)))) == 12
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    count = len(list(read_frames(open_video(path))))
    assert 0 < count < 11
    assert f"ends after {count} of the 12 frames that its header states" in caplog.text


def test_a_file_that_is_no_video_is_an_error_before_any_work(tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    out = str(tmp_path / "out")
    assert main(["predict", "run", str(tmp_path / "broken.mp4"), "--out", out]) == 1
    assert "broken.mp4 cannot be read as a video" in capsys.readouterr().err
    assert main(["predict", "run", str(tmp_path / "absent.mp4"), "--out", out]) == 1
    assert "no video file" in capsys.readouterr().err
    assert main(["predict", "run", "x.png", "--every", "0", "--out", out]) == 1
    assert "--every 0 must be at least 1" in capsys.readouterr().err


def test_an_exported_file_predicts_like_its_workdir(workdir, tmp_path):
    (image,) = write_images(tmp_path, 1)
    exported = tmp_path / "model.safetensors"
    assert main(["weights", "export", str(workdir), "--out", str(exported)]) == 0
    written = []
    for model in (workdir, exported):
        out = tmp_path / f"out{len(written)}"
        assert main(["predict", str(model), str(image), "--out", str(out)]) == 0
        written.append((out / "predictions.json").read_text())
    assert written[0] == written[1]


def test_a_threshold_below_the_models_own_finds_what_it_says(workdir, tmp_path, capsys):
    (image,) = write_images(tmp_path, 1)
    model, found = tmp_path / "model.safetensors", []
    assert main(["weights", "export", str(workdir), "--out", str(model)]) == 0
    everything = jaxseg.load(model).predict(image)
    assert everything.scores.min() > 0
    imported = ["weights", "import", str(model), "--out", str(tmp_path / "strict")]
    highest = str(everything.scores[3])
    assert main([*imported, "--model.box.score-threshold", highest]) == 0
    lowest = str((everything.scores[5] + everything.scores[6]) / 2)
    for threshold in ("0.9", lowest):
        out = tmp_path / threshold
        arguments = ["--threshold", threshold, "--out", str(out)]
        assert main(["predict", str(tmp_path / "strict"), str(image), *arguments]) == 0
        found.append(len(json.loads((out / "predictions.json").read_text())))
    assert found == [3, 6]
    for threshold in ("nan", "50"):
        arguments = ["predict", str(workdir), str(image), "--out", str(out)]
        assert main([*arguments, "--threshold", threshold]) == 1
        assert f"--threshold {float(threshold)} must be from 0 to 1" in capsys.readouterr().err


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_signal_ends_predict_and_keeps_its_results(workdir, tmp_path, capsys, monkeypatch):
    save, out = predict_command.save_picture, tmp_path / "out"

    def save_until_stopped(path, picture):
        save(path, picture)
        if path.name.startswith("003"):
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = ["predict", str(workdir), *map(str, write_images(tmp_path, 5)), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(predict_command, "save_picture", save_until_stopped)
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
        assert main(["weights", "export", str(workdir), "--out", f"{out}.safetensors"]) == 1
        assert main(["data", "check", str(tmp_path), "--out", out]) == 1


def test_a_workdir_without_a_checkpoint_leaves_no_output_folder(tmp_path, capsys):
    (image,) = write_images(tmp_path, 1)
    out = tmp_path / "predicted"
    assert main(["predict", str(tmp_path / "absent"), str(image), "--out", str(out)]) == 1
    assert f"no workdir {tmp_path / 'absent'}" in capsys.readouterr().err
    assert not out.exists()


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
