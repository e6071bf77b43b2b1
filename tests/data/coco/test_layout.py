"""The layouts of annotation tools, files that are split by a seed, and splits of other names."""

import json
import random
import shutil

import cv2
import numpy as np
import pytest

from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder
from jaxseg.data.coco.layout import list_splits

SIZE = (16, 24)


def coco(count, first_id=1):
    images, annotations = [], []
    for i in range(first_id, first_id + count):
        images.append({"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]})
        for left in (1, 8 + i % 5):
            box = [left, 2, 5, 7]
            polygon = [left, 2, left + 5, 2, left + 5, 9, left, 9]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 3,
                    "bbox": box,
                    "area": 35,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    categories = [{"id": 3, "name": "cell"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(annotations, images, count=4, first_id=1):
    """Write a COCO file and its images; return the content."""
    data = coco(count, first_id)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(data))
    for image in data["images"]:
        pixels = np.full((*SIZE, 3), image["id"], np.uint8)
        assert cv2.imwrite(str(images / image["file_name"]), pixels)
    return data


def open_both(folder):
    return [folder.open(role) for role in ("train", "val")]


def check_partition(folder, count, val_count):
    train, val = open_both(folder)
    assert (len(train), len(val)) == (count - val_count, val_count)
    assert {*train.image_ids, *val.image_ids} == set(range(1, count + 1))
    for source in (train, val):
        assert all(source[i].image[0, 0, 0] == source.image_ids[i] for i in range(len(source)))
        truth = source.ground_truth()
        assert [image["id"] for image in truth["images"]] == source.image_ids
        assert {a["image_id"] for a in truth["annotations"]} == set(source.image_ids)
    return train, val


def test_roboflow_is_read(tmp_path):
    for split, first in (("train", 1), ("valid", 5), ("test", 9)):
        write(tmp_path / split / "_annotations.coco.json", tmp_path / split, first_id=first)
    train, val = open_both(CocoFolder(str(tmp_path)))
    assert (train.image_ids, val.image_ids) == ([1, 2, 3, 4], [5, 6, 7, 8])
    assert val[0].image[0, 0, 0] == 5
    assert [split.name for split in list_splits(tmp_path)] == ["test", "train", "valid"]


@pytest.mark.parametrize("images", ["images", "images/{}"])
@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "Validation")])
def test_cvat_is_read(tmp_path, images, splits):
    for split, first in zip(splits, (1, 5), strict=True):
        name = f"instances_{split}.json"
        write(tmp_path / "annotations" / name, tmp_path / images.format(split), first_id=first)
    train, val = open_both(CocoFolder(str(tmp_path)))
    assert train[0].image[0, 0, 0] == 1
    assert val[0].image[0, 0, 0] == 5


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_default.json", "images/default"),  # CVAT without subsets
        ("result.json", "images"),  # Label Studio
        ("_annotations.coco.json", "."),
    ],
)
def test_the_only_file_is_split_by_a_seed(tmp_path, annotations, images, caplog):
    caplog.set_level("INFO", "jaxseg")
    write(tmp_path / annotations, tmp_path / images, 10)
    check_partition(CocoFolder(str(tmp_path)), 10, 2)
    assert "8 images for train, split by seed 0 with val_fraction 0.2" in caplog.text
    assert "2 images for val, split by seed 0" in caplog.text


@pytest.mark.parametrize("results", ["[]", '\n [{"image_id": 1}]', "\ufeff[]"])
def test_a_file_of_results_is_no_split(tmp_path, results):
    """`jaxseg predict --out DIR` writes one beside `dataset.json`."""
    write(tmp_path / "dataset.json", tmp_path / "images")
    (tmp_path / "predictions.json").write_text(results)
    assert [split.name for split in list_splits(tmp_path)] == ["dataset"]
    check_partition(CocoFolder(str(tmp_path)), 4, 1)


def test_a_file_is_read_with_an_image_root(tmp_path):
    path = tmp_path / "a" / "train.json"
    write(path, tmp_path / "b" / "photos", 10)
    folder = CocoFolder(str(path), images=str(tmp_path / "b" / "photos"), val_fraction=0.3)
    check_partition(folder, 10, 3)
    assert len(folder.open("train.json".removesuffix(".json"))) == 7  # the role
    with pytest.raises(ValueError, match=r"there is no file '.*a/images/1.png'"):
        CocoFolder(str(path)).open("val" if 1 in folder.open("val").image_ids else "train")
    with pytest.raises(FileNotFoundError, match=r"no image folder .*absent"):
        CocoFolder(str(path), images=str(tmp_path / "absent")).open("train")
    arguments = ["data", "check", str(path)]
    assert main(arguments) == 1
    assert main([*arguments, "--images", str(tmp_path / "b" / "photos")]) == 0


def test_the_split_depends_on_ids_and_seed_alone(tmp_path):
    path = tmp_path / "all.json"
    data = write(path, tmp_path / "images", 30)
    first = open_both(CocoFolder(str(path)))
    for entries in (data["images"], data["annotations"]):
        random.Random(0).shuffle(entries)
    path.write_text(json.dumps(data))
    second = open_both(CocoFolder(str(path)))
    other = open_both(CocoFolder(str(path), split_seed=1))
    for one, same, different in zip(first, second, other, strict=True):
        assert set(one.image_ids) == set(same.image_ids) != set(different.image_ids)


def test_the_fingerprint_of_a_part_is_that_of_its_images_alone(tmp_path):
    path = tmp_path / "all.json"
    data = write(path, tmp_path / "images", 10)
    train, val = open_both(CocoFolder(str(path)))
    for source in (train, val):
        own = {
            **data,
            "images": [i for i in data["images"] if i["id"] in source.image_ids],
            "annotations": [a for a in data["annotations"] if a["image_id"] in source.image_ids],
        }
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "train.json").write_text(json.dumps(own))
        shutil.copytree(tmp_path / "images", tmp_path / "own" / "images", dirs_exist_ok=True)
        alone = CocoFolder(str(tmp_path / "own")).open("train")
        assert alone.fingerprint == source.fingerprint
        assert alone.ground_truth() == source.ground_truth()
    # Another split notices only changes of its own images.
    changed = next(a for a in data["annotations"] if a["image_id"] in val.image_ids)
    changed["bbox"][2] = 5.25
    path.write_text(json.dumps(data))
    new_train, new_val = open_both(CocoFolder(str(path)))
    assert new_train.fingerprint == train.fingerprint
    assert new_val.fingerprint != val.fingerprint


def test_a_split_reports_and_ignores_its_own_images(tmp_path):
    path = tmp_path / "all.json"
    write(path, tmp_path / "images", 10)
    train, val = open_both(CocoFolder(str(path)))
    in_train, in_val = train.image_ids[0], val.image_ids[0]
    (tmp_path / "images" / f"{in_train}.png").unlink()
    with pytest.raises(ValueError, match=f"image id {in_train} "):
        CocoFolder(str(path)).open("train")
    folder = CocoFolder(str(path), ignore_image_ids=(in_train,))
    assert [len(source) for source in open_both(folder)] == [7, 2]
    wrong = CocoFolder(str(path), ignore_image_ids=(in_train, in_val))
    with pytest.raises(ValueError, match=f"no image id {in_val} in the split 'train' of that file"):
        wrong.open("train")


def test_a_file_that_cannot_be_split_is_an_error(tmp_path):
    write(tmp_path / "all.json", tmp_path / "images", 1)
    with pytest.raises(ValueError, match=r"all.json: 1 images cannot be split into train and val"):
        CocoFolder(str(tmp_path)).open("train")
    with pytest.raises(ValueError, match=r"val_fraction 1 must be between 0 and 1"):
        CocoFolder(str(tmp_path), val_fraction=1.0).open("train")


def test_a_named_file_is_not_split(tmp_path):
    """Else training on the whole file would be evaluated on a part of it."""
    write(tmp_path / "all.json", tmp_path / "images")
    folder = CocoFolder(str(tmp_path), train="all")
    assert len(folder.open("train")) == 4
    with pytest.raises(FileNotFoundError, match=r"no split 'val' \(found: all\)"):
        folder.open("val")


def test_absent_names_fall_back_to_the_roles_with_a_warning(tmp_path, caplog):
    write(tmp_path / "train.json", tmp_path / "images")
    write(tmp_path / "val.json", tmp_path / "images", 3, first_id=5)
    folder = CocoFolder(str(tmp_path), train="mini_train", val="mini_val")
    assert [len(source) for source in open_both(folder)] == [4, 3]
    assert "has no split 'mini_train': using its split 'train' (train.json)" in caplog.text
    assert "has no split 'mini_val': using its split 'val' (val.json)" in caplog.text
    assert "--data.source.val NAME chooses another" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no split 'mini_val' \(found: train, val\)"):
        folder.open("mini_val")  # by its name, not by its role


def test_a_named_split_is_not_combined_with_another(tmp_path):
    """The splits `train` and `mini_val` may share images."""
    for name in ("train", "val", "mini_val"):
        write(tmp_path / f"{name}.json", tmp_path / "images")
    folder = CocoFolder(str(tmp_path), train="mini_train", val="mini_val")
    with pytest.raises(FileNotFoundError, match="no split 'mini_train'"):
        folder.open("train")
    write(tmp_path / "mini_train.json", tmp_path / "images", 2)
    assert len(folder.open("train")) == 2
