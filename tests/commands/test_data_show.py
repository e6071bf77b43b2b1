"""`jaxseg data show`: the page of samples."""

import cv2
import numpy as np
import pytest

from jaxseg.commands.cli import main
from jaxseg.commands.data_show import PANEL, show
from jaxseg.commands.demo import MASK_RCNN
from jaxseg.commands.override import override
from jaxseg.data import Shapes, write_coco
from tests.data.coco.test_semantic_maps import CLASSES, write_maps

SHAPES = Shapes(size=64, train_images=12, val_images=5)


def test_a_page_has_a_row_for_each_of_some_images(tmp_path):
    ids = show(SHAPES, tmp_path / "new" / "page.png", count=3)
    page = cv2.imread(str(tmp_path / "new" / "page.png"))
    assert page.shape[0] > 3 * PANEL
    assert page.shape[1] == 3 * (PANEL + 4)
    known = SHAPES.open("train").image_ids
    assert ids == [known[0], known[6], known[11]]


def test_a_page_depends_on_the_seed_and_the_data_alone(tmp_path):
    pages = []
    for number, seed in enumerate((0, 0, 1)):
        show(SHAPES, tmp_path / f"{number}.png", split="val", count=2, seed=seed)
        pages.append(cv2.imread(str(tmp_path / f"{number}.png")))
    np.testing.assert_array_equal(pages[0], pages[1])
    assert (pages[0] != pages[2]).any()
    left = slice(0, PANEL)  # the annotations themselves
    np.testing.assert_array_equal(pages[0][:, left], pages[2][:, left])


def test_the_commands_show_and_check_propose_the_same(tmp_path, capsys):
    for split in ("train", "val"):
        write_coco(SHAPES.open(split), tmp_path / "data", split)
    out = tmp_path / "page.png"
    assert main(["data", "show", str(tmp_path / "data"), "--out", str(out), "--count", "2"]) == 0
    assert "drew 2 images" in capsys.readouterr().out
    assert cv2.imread(str(out)) is not None
    assert main(["data", "check", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    proposed = printed[printed.index("settings that fit") :].split()
    flags = proposed[proposed.index("--model.num-classes") :]
    changed = override(MASK_RCNN, flags)
    assert changed.data.buckets == ((64, 64),)
    assert changed.model.num_classes == 5


def test_more_objects_than_training_keeps_are_an_error_with_a_proposal(tmp_path, capsys):
    write_coco(SHAPES.open("train"), tmp_path, "train")
    assert main(["data", "check", str(tmp_path), "--max-objects", "1"]) == 1
    printed = capsys.readouterr().out
    assert "errors objects-truncated" in printed
    source = SHAPES.open("train")
    proposed = int(printed.split("--data.max-objects ")[1].split()[0])
    assert proposed >= max(len(source[i].boxes) for i in range(len(source)))


def test_the_output_is_checked_first(tmp_path, capsys):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match="results cannot be written"):
        show(Shapes(size=-1), tmp_path / "folder.png")
    assert main(["data", "show", "absent", "--out", str(tmp_path / "new" / "page.txt")]) == 1
    assert "page.txt must end in .png or .jpg or .jpeg" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_page_is_of_the_format_that_its_name_says(tmp_path):
    for name, start in (("a.png", b"\x89PNG"), ("b.JPG", b"\xff\xd8"), ("c.jpeg", b"\xff\xd8")):
        show(SHAPES, tmp_path / name, count=1)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_maps_are_drawn_around_the_objects(tmp_path):
    for name, stuff in (("plain.png", False), ("stuff.png", True)):
        config = Shapes(size=64, train_images=4, stuff=stuff)
        show(config, tmp_path / name, count=2)
    plain, stuff = (cv2.imread(str(tmp_path / name)) for name in ("plain.png", "stuff.png"))
    assert plain.shape == stuff.shape
    for panel in range(3):  # more than half of each picture is background
        columns = slice(panel * (PANEL + 4), (panel + 1) * (PANEL + 4))
        assert (plain[:, columns] != stuff[:, columns]).any(-1).mean() > 0.5


def test_semantic_maps_are_drawn_and_counted(tmp_path, capsys):
    write_maps(tmp_path)
    out = tmp_path / "page.png"
    maps = ["--semantic-maps", "stuffthingmaps", "--num-semantic-classes", str(CLASSES)]
    assert main(["data", "show", str(tmp_path), "--out", str(out), "--count", "1", *maps]) == 0
    with_maps = cv2.imread(str(out))
    assert main(["data", "show", str(tmp_path), "--out", str(out), "--count", "1"]) == 0
    assert (cv2.imread(str(out)) != with_maps).any(-1).mean() > 0.1
    assert main(["data", "check", str(tmp_path), *maps]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "semantic classes 12 with pixels 12 pixels without a class 15.0%" in printed


@pytest.mark.parametrize("command", ["check", "show"])
def test_flags_of_folders_are_refused_for_tfds_datasets(tmp_path, capsys, command):
    (tmp_path / "dataset_info.json").write_text("{}")
    flags = ["--panoptic", "--num-semantic-classes", "3"]
    assert main(["data", command, str(tmp_path), *flags]) != 0
    message = " ".join(capsys.readouterr().err.split())
    assert "is a TFDS dataset, which these do not apply to: --panoptic, --num-sem" in message
