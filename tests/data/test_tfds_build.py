"""Building a TFDS set from a COCO-format folder: what is in it, and what interruptions do."""

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

SHAPES = Shapes(size=48, train_images=7, val_images=3)


@pytest.fixture
def folder(tmp_path):
    """Two splits of drawn scenes, of which the first has all that COCO's JSON may hold."""
    path = tmp_path / "coco"
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), path, split)
    content = json.loads((path / "train.json").read_text())
    content |= {"info": {"year": 2017}, "licenses": [{"id": 1, "url": "é"}], "of its own": [None]}
    content["images"][0] |= {"license": 1, "coco_url": "http://a/b.jpg"}
    content["categories"].reverse()
    content["categories"][0]["supercategory"] = "figure"
    annotations = content["annotations"]
    annotations.reverse()
    annotations[0] |= {"iscrowd": 1, "keypoints": [1, 2.5, 0], "area": 0.1 + 0.2}
    annotations[1]["bbox"][0] += 1 / 3
    polygons = [[0.1, 2.0, 1 / 3, 30, 20, 20], [1, 2, 3, 4, 5, 7]]
    annotations[2] |= {"segmentation": polygons, "bbox": [0.1, 2, 19.9, 28]}
    annotations[3]["bbox"] = [3, 3, 0, 4]  # left out of training, not of the file
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


def test_nothing_is_lost_on_the_way_there_and_back(folder, tmp_path):
    assert build(folder, tmp_path / "set", images_per_shard=3)
    for split in ("train", "val"):
        coco = CocoFolder(str(folder)).open(split)
        built = TfdsFolder(str(tmp_path / "set")).open(split)
        assert built.ground_truth() == coco.ground_truth()
        assert_same_examples(built, coco)
    # What the file itself says, and no more than `iscrowd` and `area` where they lacked.
    given = json.loads((folder / "train.json").read_text())
    back = TfdsFolder(str(tmp_path / "set")).open("train").ground_truth()
    for annotation, original in zip(back["annotations"], given["annotations"], strict=True):
        assert (
            annotation.items() >= {**original, "segmentation": annotation["segmentation"]}.items()
        )
        assert annotation["segmentation"] == original["segmentation"]
    assert {**back, "annotations": []} == {**given, "annotations": []}


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


def test_tfds_builds_the_same_set_in_its_own_way(folder, tmp_path, monkeypatch):
    from jaxseg.data.tfds import builder as module

    config = module.CocoConfig("mine", folder=str(folder))
    builder = module.CocoInstances(config=config, data_dir=tmp_path)
    monkeypatch.setattr(module, "IMAGES_PER_SHARD", 3)
    builder.download_and_prepare(file_format="array_record")
    assert builder.info.splits["train"].shard_lengths == [3, 3, 1]
    for _ in range(2):  # without the index of the images, and with it
        built = TfdsFolder(builder.data_dir).open("train")
        coco = CocoFolder(str(folder)).open("train")
        assert built.ground_truth() == coco.ground_truth()
        assert_same_examples(built, coco)
    assert builder.info.features["objects"]["label"].names[0] == "disc"


class SimulatedCrash(Exception):
    pass


def pull_the_plug(monkeypatch, after):
    """The build ends in the middle of the shard that follows `after` whole ones."""
    real, calls = write._write_shard, []

    def write_shard(path, records):
        calls.append(path)
        if len(calls) > after:
            path.with_name(path.name + ".partial").write_bytes(b"half a shard")
            raise SimulatedCrash
        real(path, records)

    monkeypatch.setattr(write, "_write_shard", write_shard)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_build_goes_on_and_ends_as_if_never_stopped(
    folder, tmp_path, monkeypatch, after
):
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        pull_the_plug(patch, after)
        with pytest.raises(SimulatedCrash):
            build(folder, out, images_per_shard=2)
    assert not out.exists()
    with pytest.raises(FileNotFoundError, match="not a prepared TFDS set"):
        TfdsFolder(str(tmp_path / "set.incomplete")).open("train")
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "set.incomplete").glob("*array_record-0000?-of-0000?")
    }
    assert len(finished) == after

    assert build(folder, out, images_per_shard=2)
    assert not (tmp_path / "set.incomplete").exists()
    for path, written in finished.items():
        assert (out / path.name).stat().st_mtime_ns == written
    build(folder, tmp_path / "straight", images_per_shard=2)
    assert contents(out) == contents(tmp_path / "straight")


def test_a_killed_build_goes_on(folder, tmp_path):
    """The process is killed outright, then another one builds the same bytes."""
    out = tmp_path / "set"
    slowly = (
        "import pathlib, sys, time; from jaxseg.data.tfds import build, write; "
        "real = write._sync; write._sync = lambda path: (time.sleep(0.2), real(path)); "
        "build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), images_per_shard=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", slowly, str(folder), str(out)])
    while not list(tmp_path.glob("set.incomplete/*array_record-00001-of-00007")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert build(folder, out, images_per_shard=1)
    build(folder, tmp_path / "straight", images_per_shard=1)
    assert contents(out) == contents(tmp_path / "straight")


def test_a_build_is_not_taken_up_with_other_annotations(folder, tmp_path, monkeypatch):
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        pull_the_plug(patch, 1)
        with pytest.raises(SimulatedCrash):
            build(folder, out, images_per_shard=2)
    whole = (folder / "train.json").read_text()
    (folder / "train.json").write_text(whole.replace('"disc"', '"disk"'))
    (folder / "val.json").write_text((folder / "val.json").read_text().replace("disc", "disk"))
    with pytest.raises(ValueError, match=r"set.incomplete was begun with other annotations"):
        build(folder, out, images_per_shard=2)


def test_a_finished_set_is_left_alone(folder, tmp_path):
    out = tmp_path / "set"
    assert build(folder, out)
    before = contents(out)
    assert not build(folder, out)
    with pytest.raises(ValueError, match=r"set was built with other annotations"):
        build(folder, out, ["val"])
    assert contents(out) == before
    with pytest.raises(ValueError, match=r"coco exists and is not a set"):
        build(folder, folder)
    (tmp_path / "empty").mkdir()
    assert build(folder, tmp_path / "empty", ["val"])


def test_two_builds_of_one_set_do_not_meet(folder, tmp_path, monkeypatch):
    real = write._write_shard

    def write_shard(path, records):
        with pytest.raises(ValueError, match=r"another process is building .*set.incomplete"):
            build(folder, tmp_path / "set")
        real(path, records)

    monkeypatch.setattr(write, "_write_shard", write_shard)
    assert build(folder, tmp_path / "set")


def test_a_broken_image_stops_the_build_by_name_and_mended_it_goes_on(folder, tmp_path):
    broken = folder / "images" / "train_00000004.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:-60])
    with pytest.raises(ValueError, match=r"train_00000004.png cannot be decoded"):
        build(folder, tmp_path / "set", images_per_shard=2)
    names = [path.name for path in (tmp_path / "set.incomplete").iterdir()]
    assert sorted(names) == ["build.json", "coco_instances-train.array_record-00000-of-00004"]
    broken.write_bytes(good)
    assert build(folder, tmp_path / "set", images_per_shard=2)


def test_defects_are_refused_or_left_out_by_kind(folder, tmp_path):
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][3]["bbox"] = [3, 3, -1, 4]
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="box-negative"):
        build(folder, tmp_path / "set")
    arguments = ["data", "build", str(folder), "--out", str(tmp_path / "set")]
    assert main([*arguments, "--ignore-issues", "box-negative"]) == 0
    dropped = CocoFolder(str(folder), ignore_issues=("box-negative",)).open("train")
    assert_same_examples(TfdsFolder(str(tmp_path / "set")).open("train"), dropped)


def test_missing_images_are_found_before_anything_is_written(folder, tmp_path):
    (folder / "images" / "val_00000003.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"val_00000003\.png"):
        build(folder, tmp_path / "set")
    assert not (tmp_path / "set.incomplete").exists()


def test_a_full_disk_is_an_error_with_a_name_and_finished_shards_stay(
    folder, tmp_path, monkeypatch
):
    """A limit on the size of files stands in for the disk; ArrayRecord meets it alike."""
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


def test_splits_with_other_categories_are_refused(folder, tmp_path):
    edit(folder / "train.json", lambda content: content["categories"][0].update(name="x"))
    with pytest.raises(ValueError, match="the splits train and val differ in their categories"):
        build(folder, tmp_path / "set")


def test_categories_without_names_of_their_own_are_kept_apart(folder, tmp_path):
    for split in ("train", "val"):
        edit(folder / f"{split}.json", lambda c: [x.update(name=" a\nb") for x in c["categories"]])
    build(folder, tmp_path / "set")
    source = TfdsFolder(str(tmp_path / "set")).open("val")
    assert source.categories == CocoFolder(str(folder)).open("val").categories
    assert source.ground_truth() == CocoFolder(str(folder)).open("val").ground_truth()


def test_splits_and_folders_that_cannot_be_built(folder, tmp_path):
    (folder / "a.b.json").write_text((folder / "val.json").read_text())
    with pytest.raises(ValueError, match=r"no split named 'a\.b'"):
        build(folder, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"no split 'test' \(found: a.b, train, val\)"):
        build(folder, tmp_path / "set", ["test"])
    with pytest.raises(FileNotFoundError, match="has no annotations"):
        build(tmp_path, tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="no data folder"):
        build(tmp_path / "nowhere", tmp_path / "set")


def test_the_command_builds_shows_progress_and_does_nothing_twice(folder, tmp_path, capsys):
    out = tmp_path / "set"
    command = ["data", "build", str(folder), "--out", str(out), "--splits", "val"]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"built {out}\n"
    assert "3/3" in shown.err
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(command[:-2]) == 1
    assert "built with other annotations" in capsys.readouterr().err


def test_cocos_own_data_comes_back_whole_and_judges_itself_perfect(shared, tmp_path):
    coco = CocoFolder(str(shared / "data" / "coco_mini"))
    build(shared / "data" / "coco_mini", tmp_path / "set")
    built = TfdsFolder(str(tmp_path / "set"))
    for split in ("train", "val"):
        truth = built.open(split).ground_truth()
        assert truth == coco.open(split).ground_truth()
    source = built.open("val")
    predictions = []
    for example in (source[index] for index in range(len(source))):
        known = np.flatnonzero(~example.iscrowd)
        scores, rles = np.ones(len(known), np.float32), [example.rles[i] for i in known]
        boxes, labels = example.boxes[known], example.labels[known]
        predictions.append(Prediction(example.image_id, boxes, scores, labels, rles))
    results = coco_results(predictions, [c.id for c in source.categories])
    metrics = evaluate(coco.open("val").ground_truth(), results)
    present = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    for category in truth["categories"]:
        expected = 1.0 if category["id"] in present else None
        for kind in ("bbox", "segm"):
            figure = metrics[f"{kind}/AP/{category['name']}"]
            assert figure == pytest.approx(expected), category
