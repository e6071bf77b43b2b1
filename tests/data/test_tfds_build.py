"""Building a TFDS dataset from a COCO-format folder: its content, and interruptions."""

import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder, Shapes, TfdsFolder, write_coco
from jaxseg.data.tfds import build, write
from jaxseg.evaluation import Prediction, coco_results, evaluate
from tests.data.coco import small_panoptic

SHAPES = Shapes(size=48, train_images=7, val_images=3)


@pytest.fixture
def folder(tmp_path):
    """Two splits of synthetic scenes; the first has everything that COCO's JSON can hold."""
    path = tmp_path / "coco"
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), path, split)
    content = json.loads((path / "train.json").read_text())
    content |= {"info": {"year": 2017}, "licenses": [{"id": 1, "url": "é"}], "other": [None]}
    content["images"][0] |= {"license": 1, "coco_url": "http://a/b.jpg"}
    content["categories"].reverse()
    content["categories"][0]["supercategory"] = "figure"
    annotations = content["annotations"]
    annotations.reverse()
    annotations[0] |= {"iscrowd": 1, "keypoints": [1, 2.5, 0], "area": 0.1 + 0.2}
    annotations[1]["bbox"][0] += 1 / 3
    polygons = [[0.1, 2.0, 1 / 3, 30, 20, 20], [1, 2, 3, 4, 5, 7]]
    annotations[2] |= {"segmentation": polygons, "bbox": [0.1, 2, 19.9, 28]}
    annotations[3]["bbox"] = [3, 3, 0, 4]  # skipped in training, kept in the file
    corner = {"size": [48, 48], "counts": [48 * 48 - 9, 9]}
    annotations[4] |= {"segmentation": corner, "bbox": [47, 39, 1, 9]}
    annotations[5]["id"] = 2**40
    del annotations[6]["area"], annotations[6]["iscrowd"]
    (path / "train.json").write_text(json.dumps(content))
    return path


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def assert_same_examples(a, b):
    assert a.categories == b.categories
    assert list(a.image_ids) == list(b.image_ids)
    np.testing.assert_array_equal(a.image_sizes, b.image_sizes)
    assert a.image_sizes.dtype == b.image_sizes.dtype
    assert len(a) == len(b)
    for index in range(len(a)):
        for name, x, y in zip(a[index]._fields, a[index], b[index], strict=True):
            if isinstance(x, np.ndarray):
                np.testing.assert_array_equal(x, y, err_msg=name)
                assert x.dtype == y.dtype
            else:
                assert x == y, name


def test_a_built_dataset_gives_back_the_file_and_its_examples(folder, tmp_path):
    assert build(folder, tmp_path / "set", images_per_shard=3)
    for split in ("train", "val"):
        coco = CocoFolder(str(folder)).open(split)
        built = TfdsFolder(str(tmp_path / "set")).open(split)
        assert built.ground_truth() == coco.ground_truth()
        assert_same_examples(built, coco)
    # The file itself, with only `iscrowd` and `area` added where they are missing.
    file = json.loads((folder / "train.json").read_text())
    read = TfdsFolder(str(tmp_path / "set")).open("train").ground_truth()
    for annotation, original in zip(read["annotations"], file["annotations"], strict=True):
        assert {**annotation, **original} == annotation
    assert {**read, "annotations": []} == {**file, "annotations": []}


def test_images_are_stored_as_the_bytes_of_their_files(folder, tmp_path):
    import tensorflow_datasets as tfds

    build(folder, tmp_path / "set")
    skip = {"image": tfds.decode.SkipDecoding()}
    records = tfds.builder_from_directory(tmp_path / "set").as_data_source("val", decoders=skip)
    assert len(records) == 3
    for record in records:
        file = folder / "images" / record["image/filename"].decode()
        assert record["image"] == file.read_bytes()
    assert "tensorflow" not in sys.modules


def test_tfds_builds_the_same_dataset_from_the_builder(folder, tmp_path, monkeypatch):
    from jaxseg.data.tfds import builder as module

    config = module.CocoConfig("cells", folder=str(folder))
    builder = module.CocoInstances(config=config, data_dir=tmp_path)
    monkeypatch.setattr(module, "IMAGES_PER_SHARD", 3)
    builder.download_and_prepare(file_format="array_record")
    assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
    for _ in range(2):  # without the index of images, then with it
        built = TfdsFolder(builder.data_dir).open("train")
        coco = CocoFolder(str(folder)).open("train")
        assert built.ground_truth() == coco.ground_truth()
        assert_same_examples(built, coco)
    assert builder.info.features["objects"]["label"].names[0] == "disc"


class SimulatedCrash(Exception):
    pass


def crash_after_shards(monkeypatch, count):
    """Make the build crash in the middle of a shard, after `count` whole ones."""
    real, calls = write._write_shard, []

    def write_shard(path, records):
        calls.append(path)
        if len(calls) > count:
            path.with_name(path.name + ".partial").write_bytes(b"half a shard")
            raise SimulatedCrash
        real(path, records)

    monkeypatch.setattr(write, "_write_shard", write_shard)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_interrupted_build_resumes_with_the_same_result(folder, tmp_path, monkeypatch, count):
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        crash_after_shards(patch, count)
        with pytest.raises(SimulatedCrash):
            build(folder, out, images_per_shard=2)
    assert not out.exists()
    with pytest.raises(FileNotFoundError, match="not a prepared TFDS dataset"):
        TfdsFolder(str(tmp_path / "set.incomplete")).open("train")
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "set.incomplete").glob("*array_record-0000?-of-0000?")
    }
    assert len(finished) == count

    assert build(folder, out, images_per_shard=2)
    assert not (tmp_path / "set.incomplete").exists()
    for path, written in finished.items():
        assert (out / path.name).stat().st_mtime_ns == written
    build(folder, tmp_path / "uninterrupted", images_per_shard=2)
    assert contents(out) == contents(tmp_path / "uninterrupted")


def test_a_killed_build_resumes(folder, tmp_path):
    """Kill the process with SIGKILL; another one then builds the same bytes."""
    out = tmp_path / "set"
    slow_build = (
        "import pathlib, sys, time; from jaxseg import files; from jaxseg.data.tfds import build; "
        "real = files.fsync; files.fsync = lambda path: (time.sleep(0.2), real(path)); "
        "build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), images_per_shard=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", slow_build, str(folder), str(out)])
    while not list(tmp_path.glob("set.incomplete/*array_record-00001-of-00007")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert build(folder, out, images_per_shard=1)
    build(folder, tmp_path / "uninterrupted", images_per_shard=1)
    assert contents(out) == contents(tmp_path / "uninterrupted")


def test_a_build_does_not_resume_with_other_annotations(folder, tmp_path, monkeypatch):
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        crash_after_shards(patch, 1)
        with pytest.raises(SimulatedCrash):
            build(folder, out, images_per_shard=2)
    text = (folder / "train.json").read_text()
    (folder / "train.json").write_text(text.replace('"disc"', '"disk"'))
    (folder / "val.json").write_text((folder / "val.json").read_text().replace("disc", "disk"))
    with pytest.raises(ValueError, match=r"set.incomplete was started with other annotations"):
        build(folder, out, images_per_shard=2)


def test_a_finished_dataset_is_not_changed(folder, tmp_path):
    out = tmp_path / "set"
    assert build(folder, out)
    before = contents(out)
    assert not build(folder, out)
    with pytest.raises(ValueError, match=r"set was built with other annotations"):
        build(folder, out, ["val"])
    assert contents(out) == before
    with pytest.raises(ValueError, match=r"coco exists and is not a dataset"):
        build(folder, folder)
    (tmp_path / "empty").mkdir()
    assert build(folder, tmp_path / "empty", ["val"])


def test_a_second_build_of_the_same_dataset_is_refused(folder, tmp_path, monkeypatch):
    real = write._write_shard

    def write_shard(path, records):
        with pytest.raises(ValueError, match=r"another process is building .*set.incomplete"):
            build(folder, tmp_path / "set")
        real(path, records)

    monkeypatch.setattr(write, "_write_shard", write_shard)
    assert build(folder, tmp_path / "set")


def test_a_build_stops_at_an_undecodable_image_and_resumes_once_it_is_fixed(folder, tmp_path):
    truncated = folder / "images" / "train_00000004.png"
    good = truncated.read_bytes()
    truncated.write_bytes(good[:-60])
    with pytest.raises(ValueError, match=r"train_00000004.png cannot be decoded"):
        build(folder, tmp_path / "set", images_per_shard=2)
    names = [path.name for path in (tmp_path / "set.incomplete").iterdir()]
    assert sorted(names) == ["build.json", "coco_instances-train.array_record-00000-of-00004"]
    truncated.write_bytes(good)
    assert build(folder, tmp_path / "set", images_per_shard=2)


def test_issues_are_refused_or_skipped_by_kind(folder, tmp_path):
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][3]["bbox"] = [3, 3, -1, 4]
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="box-negative"):
        build(folder, tmp_path / "set")
    arguments = ["data", "build", str(folder), "--out", str(tmp_path / "set")]
    assert main([*arguments, "--ignore-issues", "box-negative"]) == 0
    skipping = CocoFolder(str(folder), ignore_issues=("box-negative",)).open("train")
    assert_same_examples(TfdsFolder(str(tmp_path / "set")).open("train"), skipping)


def test_missing_images_are_found_before_anything_is_written(folder, tmp_path):
    (folder / "images" / "val_00000003.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"val_00000003\.png"):
        build(folder, tmp_path / "set")
    assert not (tmp_path / "set.incomplete").exists()


def test_a_full_disk_is_an_error_and_finished_shards_are_kept(folder, tmp_path, monkeypatch):
    """A limit on file sizes simulates the disk; ArrayRecord gets the same kind of error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    real, shards = write._write_shard, []

    def write_shard(path, records):
        if shards:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        shards.append(path)
        real(path, records)

    monkeypatch.setattr(write, "_write_shard", write_shard)
    try:
        with pytest.raises(OSError, match=r"-00001-of-00004 could not be written: .*too large"):
            build(folder, tmp_path / "set", images_per_shard=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [path.exists() for path in shards] == [True, False]
    monkeypatch.undo()
    assert build(folder, tmp_path / "set", images_per_shard=2)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_splits_with_different_categories_are_refused(folder, tmp_path):
    edit(folder / "train.json", lambda content: content["categories"][0].update(name="x"))
    with pytest.raises(ValueError, match="the splits train and val have different categories"):
        build(folder, tmp_path / "set")


def test_categories_with_the_same_name_stay_distinct(folder, tmp_path):
    for split in ("train", "val"):
        edit(folder / f"{split}.json", lambda c: [x.update(name=" a\nb") for x in c["categories"]])
    build(folder, tmp_path / "set")
    source = TfdsFolder(str(tmp_path / "set")).open("val")
    assert source.categories == CocoFolder(str(folder)).open("val").categories
    assert source.ground_truth() == CocoFolder(str(folder)).open("val").ground_truth()


def test_splits_and_folders_that_cannot_be_built(folder, tmp_path):
    (folder / "a.b.json").write_text((folder / "val.json").read_text())
    with pytest.raises(ValueError, match=r"does not accept the split name 'a\.b'"):
        build(folder, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"no split 'test' \(found: a.b, train, val\)"):
        build(folder, tmp_path / "set", ["test"])
    with pytest.raises(FileNotFoundError, match="has no annotations"):
        build(tmp_path, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="no data folder"):
        build(tmp_path / "nowhere", tmp_path / "set")


@pytest.mark.parametrize("splits", [(), ("train",)])
def test_no_dataset_is_built_from_panoptic_annotations(tmp_path, splits):
    (tmp_path / "data").mkdir()
    small_panoptic.write(tmp_path / "data", small_panoptic.content())
    with pytest.raises(ValueError, match="from which no dataset is built"):
        build(tmp_path / "data", tmp_path / "out", splits)


def test_the_command_builds_once(folder, tmp_path, capsys):
    out = tmp_path / "set"
    command = ["data", "build", str(folder), "--out", str(out), "--splits", "val"]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"built {out}\n"
    assert not shown.err  # no bar without a terminal
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(command[:-2]) == 1
    assert "built with other annotations" in capsys.readouterr().err


def test_one_file_with_images_elsewhere_is_built_in_two_parts(folder, tmp_path):
    file, photos = tmp_path / "export.json", tmp_path / "photos"
    (folder / "images").rename(photos)
    (folder / "train.json").rename(file)
    command = ["data", "build", str(file), "--images", str(photos), "--splits", "train", "val"]
    main([*command, "--out", str(tmp_path / "set")])
    read = CocoFolder(str(file), images=str(photos))
    for split in ("train", "val"):
        assert_same_examples(TfdsFolder(str(tmp_path / "set")).open(split), read.open(split))


def test_coco_is_built_without_loss_and_its_ground_truth_has_ap_1(shared, tmp_path):
    coco = CocoFolder(str(shared / "data" / "coco_mini"))
    build(shared / "data" / "coco_mini", tmp_path / "set")
    built = TfdsFolder(str(tmp_path / "set"))
    for split in ("train", "val"):
        truth = built.open(split).ground_truth()
        assert truth == coco.open(split).ground_truth()
    source = built.open("val")
    predictions = []
    for example in (source[index] for index in range(len(source))):
        kept = np.flatnonzero(~example.iscrowd)
        scores, rles = np.ones(len(kept), np.float32), [example.rles[i] for i in kept]
        boxes, labels = example.boxes[kept], example.labels[kept]
        predictions.append(Prediction(example.image_id, boxes, scores, labels, rles))
    results = coco_results(predictions, [c.id for c in source.categories])
    metrics = evaluate(coco.open("val").ground_truth(), results)
    present = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    for category in truth["categories"]:
        expected = 1.0 if category["id"] in present else None
        for kind in ("bbox", "segm"):
            ap = metrics[f"{kind}/AP/{category['name']}"]
            assert ap == pytest.approx(expected), category
