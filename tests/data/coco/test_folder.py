import copy
import gc
import json
import multiprocessing
import os
import pathlib
import pickle

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder
from jaxseg.data.coco.segmentations import to_rle
from tests.data.coco.small_folder import SIZE, content, disc, write


def test_all_mask_formats_are_read(tmp_path):
    source = write(tmp_path, content()).open("train")
    assert [c.name for c in source.categories] == ["box", "cell"]  # by id
    assert len(source) == 2
    example = source[0]
    assert example.image.shape == (*SIZE, 3)
    np.testing.assert_allclose(example.boxes[0], [4, 2, 14, 12])
    assert example.labels.tolist() == [0, 1, 1]  # the annotation without area is skipped
    assert example.iscrowd.tolist() == [False, False, True]
    truth = COCO()
    truth.dataset = copy.deepcopy(source.ground_truth())
    truth.createIndex()
    for rle, annotation in zip(example.rles, truth.dataset["annotations"], strict=False):
        np.testing.assert_array_equal(mask_api.decode(rle), truth.annToMask(annotation))
    np.testing.assert_array_equal(mask_api.decode(example.rles[2]), disc())
    empty = source[1]
    assert empty.boxes.shape == (0, 4)
    assert len(empty.rles) == 0


def test_coco_layout_and_the_list_of_splits(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content()))
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "train2017" / name), np.zeros((*SIZE, 3), np.uint8))
    folder = CocoFolder(str(tmp_path))
    assert len(folder.open("train2017")) == len(folder.open("train")) == 2
    with pytest.raises(FileNotFoundError, match=r"no split 'val' \(found: train2017\)"):
        folder.open("val")
    assert len(CocoFolder(str(tmp_path), val="train2017").open("val")) == 2


def test_ground_truth_has_iscrowd_and_area_for_all_annotations(tmp_path):
    truth = write(tmp_path, content()).open("train").ground_truth()["annotations"]
    assert [a["id"] for a in truth] == [1, 2, 3, 4]  # also the one without area
    assert [a["iscrowd"] for a in truth] == [0, 0, 1, 0]
    assert [a["area"] for a in truth] == [100, disc().sum(), disc().sum(), 16]


def test_the_number_of_skipped_annotations_is_logged(tmp_path, caplog):
    write(tmp_path, content()).open("train")
    assert "train.json: skipped 1 annotations with boxes without area" in caplog.text


def test_errors_name_images_of_another_size_and_undecodable_ones(tmp_path):
    source = write(tmp_path, content()).open("train")
    cv2.imwrite(str(tmp_path / "images" / "b.png"), np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b.png is 6x5 pixels, not 30x20 \(image id 8 of .*json"):
        source[1]
    (tmp_path / "images" / "a.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"a.png cannot be decoded"):
        source[0]


def test_polygons_are_clipped_to_the_image():
    rle = to_rle([[-5.0, -5.0, 10.0, -5.0, 10.0, 5.0, -5.0, 5.0]], *SIZE)
    assert mask_api.area(rle) == 50


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("nuclei", "mini_train"),
        ("nuclei", "mini_val"),
        ("coco_mini", "train"),
        ("coco_mini", "val"),
    ],
)
def test_real_data_is_read_completely(shared, folder, split):
    source = CocoFolder(str(shared / "data" / folder)).open(split)
    objects = sum(len(source[i].boxes) for i in range(len(source)))
    assert objects == len(source.ground_truth()["annotations"])


def lvis():
    data = content()
    for image, name in zip(data["images"], ("a.png", "b.png"), strict=True):
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{name}"
        image |= {"neg_category_ids": [5], "not_exhaustive_category_ids": [9]}
    for annotation in data["annotations"]:
        annotation.pop("iscrowd", None)
    for category in data["categories"]:
        category |= {"frequency": "r", "synset": f"{category['name']}.n.01"}
    return data


@pytest.mark.parametrize("json_folder", [".", "annotations"])
def test_lvis_is_read_from_coco_image_folders(tmp_path, json_folder):
    write(tmp_path, content())
    (tmp_path / "train.json").unlink()
    (tmp_path / "images").rename(tmp_path / "train2017")
    (tmp_path / json_folder).mkdir(exist_ok=True)
    (tmp_path / json_folder / "lvis_v1_train.json").write_text(json.dumps(lvis()))
    for name in ("train", "lvis_v1_train"):
        source = CocoFolder(str(tmp_path)).open(name)
        assert [len(source[i].boxes) for i in range(2)] == [3, 0]
    truth = source.ground_truth()
    assert truth["images"] == lvis()["images"]
    assert truth["categories"] == lvis()["categories"]
    assert {a["iscrowd"] for a in truth["annotations"]} == {0}


def test_an_ambiguous_split_is_an_error(tmp_path):
    folder = write(tmp_path, content())
    (tmp_path / "images").rename(tmp_path / "train2017")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "lvis_v1_train.json").write_text(json.dumps(lvis()))
    with pytest.raises(
        ValueError, match=r"several splits for 'train': 'lvis_v1_train' .*'train2017'"
    ):
        folder.open("train")
    for name in ("lvis_v1_train", "train2017"):
        assert len(CocoFolder(str(tmp_path), train=name).open("train")) == 2


def assert_same_examples(first, second):
    for field, one, other in zip(first._fields, first, second, strict=True):
        if field == "rles":
            assert list(one) == list(other)
        else:
            np.testing.assert_array_equal(one, other, err_msg=field)


def shared_files(source):
    return [pathlib.Path(path) for path in source._arrays._files.values()]


def send_back(source, queue):
    """Run in a worker: put whether arrays are mapped from files, an example and annotations."""
    mapped = isinstance(source._arrays["coordinates"], np.memmap)
    queue.put((mapped, source[0], source.ground_truth()["annotations"]))


def test_large_arrays_reach_processes_through_files_that_are_removed_later(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxseg.data.shared_arrays._MIN_FILE_BYTES", 0)
    source = write(tmp_path, content()).open("train")
    data = pickle.dumps(source)
    assert pickle.dumps(source) == data  # the files are written once
    files = shared_files(source)
    assert all(path.is_file() for path in files)
    received = pickle.loads(data)
    assert_same_examples(received[0], source[0])
    assert pickle.loads(pickle.dumps(received)).image_ids == [7, 8]  # receivers may pickle it too

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=send_back, args=(source, queue))
    worker.start()
    mapped, example, annotations = queue.get(timeout=60)
    worker.join()
    assert mapped
    assert_same_examples(example, source[0])
    assert annotations == source.ground_truth()["annotations"]

    del received
    gc.collect()
    assert all(path.is_file() for path in files)  # the sender owns them
    del source, worker
    gc.collect()
    assert not any(path.parent.exists() for path in files)


def test_a_small_source_needs_no_files(tmp_path):
    source = write(tmp_path, content()).open("train")
    assert_same_examples(pickle.loads(pickle.dumps(source))[0], source[0])
    assert not shared_files(source)


def test_an_open_split_does_not_keep_the_parsed_file(tmp_path):
    source = write(tmp_path, content()).open("train")
    held = gc.get_referents(*vars(source).values(), vars(source))
    assert not any(isinstance(value, dict) and "bbox" in value for value in held)
    assert len(pickle.dumps(source)) < 5000


def test_a_file_changed_after_opening_is_an_error(tmp_path):
    source = write(tmp_path, content()).open("train")
    data = content()
    data["annotations"].pop(0)
    (tmp_path / "train.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"train.json was changed since it was opened"):
        source.ground_truth()


def test_a_file_that_is_only_touched_is_the_same(tmp_path):
    source = write(tmp_path, content()).open("train")
    before = source.ground_truth()
    os.utime(tmp_path / "train.json", (1, 1))
    assert source.ground_truth() == before


def test_a_change_that_keeps_size_and_time_is_an_error(tmp_path):
    source = write(tmp_path, content()).open("train")
    path = tmp_path / "train.json"
    text, status = path.read_text(), path.stat()
    changed = text.replace('"iscrowd": 1', '"iscrowd": 0', 1)
    assert changed != text
    path.write_text(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=r"train.json was changed since it was opened"):
        source.ground_truth()


def test_the_fingerprint_sees_each_annotation_and_nothing_else(tmp_path):
    def fingerprint(change=lambda data: None, **options):
        data = content()
        change(data)
        write(tmp_path, data)
        return CocoFolder(str(tmp_path), **options).open("train").fingerprint

    def set_annotation(field, value):
        return lambda data: data["annotations"][0].update({field: value})

    first = content()["annotations"][0]
    x, y, width, height = first["bbox"]
    changes = [
        set_annotation("bbox", [x, y, width - 0.5, height]),
        set_annotation("iscrowd", 1 - first.get("iscrowd", 0)),
        set_annotation("category_id", 9),
        set_annotation("segmentation", [[4.0, 2.0, 14.0, 2.0, 14.0, 11.5, 4.0, 12.0]]),
        lambda data: data["annotations"].pop(0),
        lambda data: data["annotations"].reverse(),
    ]
    expected = fingerprint()
    found = [fingerprint(change) for change in changes]
    assert len({expected, *found}) == 1 + len(changes)
    assert fingerprint(lambda data: data.update(info={"note": "other"})) == expected
    assert fingerprint(ignore_image_ids=(content()["images"][0]["id"],)) == expected


def test_a_folder_is_listed_once_and_only_inside_the_image_folder(tmp_path, monkeypatch):
    data, listed, scandir = content(), [], os.scandir
    folder = write(tmp_path, data)
    images = [{**data["images"][0], "id": n, "file_name": f"{'./' * n}a.png"} for n in range(2, 20)]
    outside = [
        {**data["images"][0], "id": 30 + n, "file_name": f"{'../' * n}a.png"} for n in (1, 2)
    ]
    (tmp_path / "train.json").write_text(json.dumps(data | {"images": images + outside}))
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    with pytest.raises(ValueError, match="leaves the image folder"):
        folder.open("train")
    assert sum("images" in path for path in listed) == 1
    assert not [path for path in listed if ".." in path]


def test_images_are_skipped_by_id(tmp_path):
    data = content()
    write(tmp_path, data)
    skipped = data["images"][0]["id"]
    source = CocoFolder(str(tmp_path), ignore_image_ids=(skipped,)).open("train")
    assert skipped not in source.image_ids
    assert len(source) == len(data["images"]) - 1
    assert all(a["image_id"] != skipped for a in source.ground_truth()["annotations"])
    (tmp_path / "val.json").write_text(json.dumps(data))
    assert skipped in CocoFolder(str(tmp_path), ignore_image_ids=(skipped,)).open("val").image_ids
    with pytest.raises(ValueError, match=r"ignore_image_ids: .*train.json has no image id 999"):
        CocoFolder(str(tmp_path), ignore_image_ids=(999,)).open("train")


def test_objects_are_counted_without_crowds(tmp_path):
    write(tmp_path, content())
    source = CocoFolder(str(tmp_path)).open("train")
    counts = [int((~source[i].iscrowd).sum()) for i in range(len(source))]
    assert source.object_counts.tolist() == counts


def test_a_tfds_dataset_is_not_accepted_as_a_coco_folder(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(
        ValueError, match="is a TFDS dataset: give the experiment source=TfdsFolder"
    ):
        CocoFolder(str(tmp_path)).open("train")


def test_a_file_outside_the_folder_is_read_only_if_allowed(tmp_path, capsys):
    data = content()
    data["images"][1]["file_name"] = "../secret.png"
    folder = write(tmp_path, data)
    (tmp_path / "images" / "b.png").rename(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"'../secret.png' leaves the image folder"):
        folder.open("train")
    allowed = CocoFolder(str(tmp_path), allow_outside_files=True)
    assert allowed.open("train")[1].image.shape == (*SIZE, 3)
    for command in (["data", "check", str(tmp_path)], ["data", "build", str(tmp_path), "--out"]):
        command += [str(tmp_path / "set")] if command[-1] == "--out" else []
        assert main(command) == 1
        assert not (tmp_path / "set").exists()
        assert "image-outside" in "".join(capsys.readouterr())
        assert main([*command, "--allow-outside-files"]) == 0
    assert (tmp_path / "set").is_dir()


def test_a_link_in_the_folder_may_leave_it(tmp_path):
    folder = write(tmp_path, content())
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "b.png").rename(tmp_path / "b.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "b.png")
    assert folder.open("train")[1].image.shape == (*SIZE, 3)


def test_annotations_that_are_a_named_pipe_are_not_waited_for(tmp_path):
    write(tmp_path, content())
    (tmp_path / "train.json").unlink()
    os.mkfifo(tmp_path / "train.json")
    with pytest.raises(ValueError, match=r"train.json is not a regular file \[file-json\]"):
        CocoFolder(str(tmp_path)).open("train")
