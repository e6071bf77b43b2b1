"""What COCO files lose, broken files, and images that need other names."""

import pytest

from tests.data.importers import exports, formats
from tests.data.importers.imports import fails, import_one, read, run


def test_invalid_coco_entries_and_added_fields_are_counted(tmp_path, capsys):
    exports.write_label_studio(tmp_path / "a", 3)
    content = exports.coco_content(range(3), "images/{}.png")
    first, second, third, fourth, fifth = content["annotations"][:5]
    first["segmentation"]["counts"] = "!"
    second["bbox"] = [0, 0, 1, 1]
    third["image_id"] = 99
    fourth["attributes"] = {"occluded": True}
    fifth["iscrowd"] = 1
    (tmp_path / "a" / "images" / "2.png").unlink()
    exports.write_json(tmp_path / "a" / "result.json", content)
    annotations, printed = import_one(tmp_path / "a", tmp_path / "out", capsys)
    assert len(annotations) == 3 + 5
    assert [a["iscrowd"] for a in annotations[:3]] == [0, 0, 1]
    for line in (
        "split train: 2 images, 7 objects and 1 crowds",
        "1 x rle-text (result.json: annotation id 1",
        "1 x annotation-image (result.json: annotation id 3",
        "1 x bbox or area, replaced by the mask's (result.json: annotation id 2",
        "1 x field 'attributes' (result.json: annotation id 4)",
        "1 x image-missing (result.json: image id 3",
    ):
        assert line in printed, line


def test_a_coco_file_is_imported_with_an_image_root(tmp_path, capsys):
    exports.write_json(tmp_path / "all.json", exports.coco_content(range(4)))
    for i in range(4):
        exports.save_image(tmp_path / "photos" / f"{i}.png", i)
    arguments = ["--images", str(tmp_path / "photos")]
    assert run(tmp_path / "all.json", tmp_path / "out", *arguments) == 0
    assert "divided by seed 0" in capsys.readouterr().out
    assert len(read(tmp_path / "out")) == 20


@pytest.mark.parametrize("name", ["labelme", "via 2", "via 3", "label studio"])
def test_cut_json_is_an_error_that_names_the_file(tmp_path, capsys, name):
    write, _ = formats.ALL[name]
    write(tmp_path / "a", 2)
    path = sorted((tmp_path / "a").rglob("*.json"))[0]
    path.write_text(path.read_text()[:-40])
    error = fails(tmp_path / "a", tmp_path, capsys)
    assert path.name in error
    assert "is not valid JSON" in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_images_of_other_folders_get_unique_names(tmp_path, capsys):
    folder = tmp_path / "a"
    for i, part in enumerate(("x", "y")):
        exports.save_image(tmp_path / part / "0.png", i)
        path = str(tmp_path / part / "0.png")
        exports.write_json(folder / f"{i}.json", exports.labelme_content(i, imagePath=path))
    annotations, _ = import_one(folder, tmp_path / "out", capsys, "--allow-outside-files")
    assert len(annotations) == 10
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["0.png", "0_2.png"]


def test_an_image_of_several_splits_is_copied_once(tmp_path, capsys):
    for split in ("train", "mini_train"):
        exports.write_json(tmp_path / "a" / f"{split}.json", exports.coco_content(range(2)))
    for i in range(2):
        exports.save_image(tmp_path / "a" / "images" / f"{i}.png", i)
    assert run(tmp_path / "a", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["0.png", "1.png"]
    assert "split mini_train: 2 images, 10 objects" in capsys.readouterr().out


def test_two_annotation_files_of_one_split_are_an_error(tmp_path, capsys):
    content = exports.coco_content(range(2), "images/{}.png")
    exports.write_json(tmp_path / "a" / "train.json", content)
    exports.write_json(tmp_path / "a" / "annotations" / "instances_train.json", content)
    error = fails(tmp_path / "a", tmp_path, capsys)
    assert "has several annotation files for 'train'" in error


@pytest.mark.parametrize("name", ["yolo", "labelme", "via 2", "label images"])
def test_a_link_to_a_folder_is_counted(tmp_path, capsys, name):
    write, _ = formats.ALL[name]
    write(tmp_path / "a", 2)
    below = {"yolo": "train/images", "label images": "images"}
    folder = tmp_path / "a" / below.get(name, "")
    (tmp_path / "more").mkdir()
    (folder / "more").symlink_to(tmp_path / "more")
    _, printed = import_one(tmp_path / "a", tmp_path / "out", capsys)
    assert "1 x link to a folder, not followed" in printed
