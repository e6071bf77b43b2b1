"""Reading TFDS datasets: the same batches as from the folder, and errors."""

import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import (
    CocoFolder,
    DataConfig,
    Shapes,
    Source,
    TfdsFolder,
    folder_config,
    train_batches,
    write_coco,
)
from jaxseg.data.stats import scan_folder
from jaxseg.data.tfds import build
from jaxseg.types import Batch, BoxCrops, TargetSpec

TARGETS = TargetSpec(BoxCrops(14))
SHAPES = Shapes(size=48, train_images=7, val_images=3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder, and the dataset that was built from it."""
    path = tmp_path_factory.mktemp("pair")
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), path / "coco", split)
    build(path / "coco", path / "set", images_per_shard=3)
    return path / "coco", path / "set"


def assert_same_batches(folder, built, split, **options):
    config = {
        "buckets": ((256, 320),),
        "min_size": 160,
        "max_size": 256,
        "max_objects": 20,
        **options,
    }
    streams = [
        train_batches(s.open(split), DataConfig(s, **config), TARGETS, batch_size=4, seed=5)
        for s in (folder, built)
    ]
    try:
        for _ in range(4):
            for name, x, y in zip(Batch._fields, *(next(s) for s in streams), strict=True):
                np.testing.assert_array_equal(x, y, err_msg=name)
    finally:
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_match_the_folder(pair, workers):
    folder, built = CocoFolder(str(pair[0])), TfdsFolder(str(pair[1]))
    assert_same_batches(folder, built, "train", buckets=((64, 64),), num_workers=workers)


@pytest.mark.parametrize(("name", "split"), [("coco_mini", "val"), ("nuclei", "mini_val")])
def test_batches_of_real_data_match_the_folder(shared, tmp_path, name, split):
    build(shared / "data" / name, tmp_path / "set", [split])
    folder = CocoFolder(str(shared / "data" / name))
    assert_same_batches(folder, TfdsFolder(str(tmp_path / "set")), split)


def test_the_statistics_match_the_folder(pair):
    for folder, built in zip(
        scan_folder(folder_config(pair[0])), scan_folder(folder_config(pair[1])), strict=True
    ):
        assert built.split == folder.split
        assert built.ids_by_digest == folder.ids_by_digest
        for name, counts in folder.class_counts.items():
            np.testing.assert_array_equal(built.class_counts[name], counts)
    (val_stats,) = scan_folder(folder_config(pair[1]), split="val", max_objects=1)
    assert val_stats.truncated_objects > 0
    assert {issue.kind for issue in val_stats.issues} == {"objects-truncated"}


def test_a_pickled_source_is_small_and_reads_the_same(pair):
    source = TfdsFolder(str(pair[1])).open("train")
    assert isinstance(source, Source)
    expected = source[4]
    pickled = pickle.dumps(source)
    assert len(pickled) < 5000
    found = pickle.loads(pickled)[4]
    np.testing.assert_array_equal(found.image, expected.image)
    assert [tuple(r.items()) for r in found.rles] == [tuple(r.items()) for r in expected.rles]


def test_indices_work_as_in_a_sequence(pair):
    source = TfdsFolder(str(pair[1])).open("val")
    assert source[-1].image_id == source[2].image_id == 3
    for index in (3, -4):
        with pytest.raises(IndexError):
            source[index]


def test_images_are_skipped_by_id(pair):
    _, built = pair
    whole = TfdsFolder(str(built)).open("train")
    skipped = whole.image_ids[1]
    source = TfdsFolder(str(built), ignore_image_ids=(skipped,)).open("train")
    assert source.image_ids == [i for i in whole.image_ids if i != skipped]
    assert source.fingerprint == whole.fingerprint
    assert [source[n].image_id for n in range(len(source))] == source.image_ids
    val = TfdsFolder(str(built)).open("val").image_ids
    assert TfdsFolder(str(built), ignore_image_ids=(skipped,)).open("val").image_ids == val
    truth = source.ground_truth()
    assert [image["id"] for image in truth["images"]] == source.image_ids
    assert skipped not in {a["image_id"] for a in truth["annotations"]}
    with pytest.raises(ValueError, match=r"ignore_image_ids: .* has no image id 999999"):
        TfdsFolder(str(built), ignore_image_ids=(999999,)).open("train")


def test_splits_are_found_by_role_or_name(pair, tmp_path):
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        content = (pair[0] / f"{split[:-4]}.json").read_text()
        (coco / "annotations" / f"instances_{split}.json").write_text(content)
        (coco / split).symlink_to(pair[0] / "images")
    build(coco, tmp_path / "set")
    built = TfdsFolder(str(tmp_path / "set"))
    assert json.loads((tmp_path / "set" / "dataset_info.json").read_text())["configName"] == "2017"
    assert len(built.open("train")) == len(built.open("train2017")) == 7
    assert len(TfdsFolder(str(tmp_path / "set"), train="val2017").open("train")) == 3
    with pytest.raises(ValueError, match=r"no split 'test' \(found: train2017, val2017\)"):
        built.open("test")


def test_images_rotated_by_exif_match_the_folder(pair, tmp_path):
    content = json.loads((pair[0] / "val.json").read_text()) | {"annotations": []}
    (tmp_path / "coco" / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = 6
    for entry, (width, height) in zip(
        content["images"], [(20, 30), (30, 20), (20, 20)], strict=True
    ):
        entry |= {"width": width, "height": height}  # rotated, original, either
        pixels = np.random.default_rng(entry["id"]).integers(0, 256, (height, width, 3), np.uint8)
        if entry["id"] == 1:
            pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
        Image.fromarray(pixels).save(tmp_path / "coco" / "images" / entry["file_name"], exif=exif)
    (tmp_path / "coco" / "val.json").write_text(json.dumps(content))
    build(tmp_path / "coco", tmp_path / "set")
    expected = CocoFolder(str(tmp_path / "coco")).open("val")
    source = TfdsFolder(str(tmp_path / "set")).open("val")
    for index in range(3):
        np.testing.assert_array_equal(source[index].image, expected[index].image)


def test_lvis_matches_its_folder(pair, tmp_path):
    content = json.loads((pair[0] / "val.json").read_text())
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "train2017").symlink_to(pair[0] / "images")
    for entry in content["images"]:
        name = entry.pop("file_name")
        entry |= {"coco_url": f"http://a/train2017/{name}", "neg_category_ids": [2]}
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    (tmp_path / "coco" / "lvis_v1_val.json").write_text(json.dumps(content))
    build(tmp_path / "coco", tmp_path / "set")
    expected = CocoFolder(str(tmp_path / "coco")).open("val")
    source = TfdsFolder(str(tmp_path / "set")).open("val")
    assert source.ground_truth() == expected.ground_truth()
    np.testing.assert_array_equal(source[1].image, expected[1].image)


def test_other_folders_are_refused_and_datasets_below_are_named(pair, tmp_path):
    with pytest.raises(FileNotFoundError, match="no TFDS folder"):
        TfdsFolder(str(tmp_path / "nowhere")).open("train")
    with pytest.raises(
        FileNotFoundError, match=r"no dataset_info.json \(datasets below it: .*/set\)"
    ):
        TfdsFolder(str(pair[1].parent)).open("train")
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be opened as a TFDS dataset"):
        TfdsFolder(str(tmp_path)).open("train")


def copy(built, to):
    to.mkdir()
    for file in built.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_corrupt_dataset_is_an_error(pair, tmp_path):
    path = copy(pair[1], tmp_path / "set")
    shard = path / "coco_instances-train.array_record-00001-of-00003"
    data = shard.read_bytes()
    shard.write_bytes(data[:2000] + bytes(len(data) - 4000) + data[-2000:])
    source = TfdsFolder(str(path)).open("train")
    assert source[0].image_id == 1
    with pytest.raises(ValueError, match=r"set, split train: record \d cannot be read"):
        source.ground_truth()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files of split train are missing.*00001-of"):
        TfdsFolder(str(path)).open("train")


def test_a_corrupt_index_is_an_error(pair, tmp_path):
    path = copy(pair[1], tmp_path / "set")
    index = path / "val.images.npy"
    index.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"val.images.npy is corrupt"):
        TfdsFolder(str(path)).open("val")
    np.save(index, np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"val.images.npy does not match the 3 images"):
        TfdsFolder(str(path)).open("val")


def test_a_read_only_dataset_is_read_without_an_index(pair, tmp_path, monkeypatch):
    from jaxseg.data.tfds import source as module

    path = copy(pair[1], tmp_path / "set")
    (path / "val.images.npy").unlink()

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(module, "write_index", refuse)
    source = TfdsFolder(str(path)).open("val")
    expected = CocoFolder(str(pair[0])).open("val")
    assert source.image_ids == expected.image_ids
    np.testing.assert_array_equal(source.image_sizes, expected.image_sizes)


def test_datasets_without_masks_or_random_access_are_refused(tmp_path):
    import tensorflow_datasets as tfds

    class BoxesOnly(tfds.core.ShardBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self):
            features = {"id": np.int64, "objects": tfds.features.Sequence({"id": np.int64})}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _shard_iterators_per_split(self, dl_manager):
            return {"train": [lambda: iter([(0, {"id": 1, "objects": []})])]}

    builder = BoxesOnly(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    with pytest.raises(
        ValueError, match=r"no supported instance masks \(its features: id, objects\)"
    ):
        TfdsFolder(builder.data_dir).open("train")
    info = pathlib.Path(builder.data_dir) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="stored as tfrecord, which has no random access"):
        TfdsFolder(builder.data_dir).open("train")


def test_importing_jaxseg_does_not_import_tfds():
    import subprocess
    import sys

    code = "import sys, jaxseg.data; sys.exit('tensorflow_datasets' in sys.modules)"
    root = pathlib.Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    "feature",
    [
        {"pythonClassName": "tfds_of_a_stranger.Feature", "text": {}},
        {"python_class_name": "tfds_of_a_stranger.Feature", "text": {}},
        {"type": "tfds_of_a_stranger.Feature", "content": {}},
        {
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "jsonFeature": {"json": '{"type": "tfds_of_a_stranger.Feature", "content": {}}'},
        },
    ],
)
def test_a_dataset_cannot_import_a_module(pair, tmp_path, monkeypatch, feature):
    shutil.copytree(pair[1], tmp_path / "set")
    (tmp_path / "tfds_of_a_stranger.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('imported').touch()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    content = json.loads((tmp_path / "set" / "features.json").read_text())
    content["featuresDict"]["features"]["type"] = feature
    (tmp_path / "set" / "features.json").write_text(json.dumps(content))
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    (tmp_path / "set" / "dataset_info.json").write_text(
        json.dumps(info | {"moduleName": "tfds_of_a_stranger"})
    )
    named = r"names the class 'tfds_of_a_stranger.Feature|JSON as text under '(jsonFeature|type)'"
    with pytest.raises(ValueError, match=named):
        TfdsFolder(str(tmp_path / "set")).open("train")
    assert not (tmp_path / "imported").exists()
    (tmp_path / "set" / "features.json").write_bytes((pair[1] / "features.json").read_bytes())
    assert len(TfdsFolder(str(tmp_path / "set")).open("train")) == 7  # the builder's is not used
    assert not (tmp_path / "imported").exists()


def test_a_dataset_cannot_import_a_module_that_a_text_in_the_old_format_names(
    pair, tmp_path, monkeypatch
):
    shutil.copytree(pair[1], tmp_path / "set")
    (tmp_path / "tfds_of_a_stranger.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('imported').touch()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    feature = {"pythonClassName": "tfds_of_a_stranger.Feature", "text": {}}
    old_format = {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": json.dumps({"features": {"image": feature}}),
    }
    (tmp_path / "set" / "features.json").write_text(json.dumps(old_format))
    with pytest.raises(ValueError, match=r"features.json has JSON as text under 'type'"):
        TfdsFolder(str(tmp_path / "set")).open("train")
    assert not (tmp_path / "imported").exists()


def test_half_of_a_surrogate_pair_in_a_category_is_refused(pair, tmp_path):
    shutil.copytree(pair[1], tmp_path / "set")
    content = json.loads((tmp_path / "set" / "metadata.json").read_text())
    content["splits"]["train"]["categories"][0]["name"] = "a\ud800"
    (tmp_path / "set" / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"set: category id 1: name 'a\\ud800' has half of"):
        TfdsFolder(str(tmp_path / "set")).open("train")
