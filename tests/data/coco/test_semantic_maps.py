"""Semantic maps beside instances, as HTC learns from COCO-Stuff's."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import CocoFolder, DataConfig, TrainPipeline
from jaxseg.data.issues import FOUND_ON_READING, IGNORABLE
from jaxseg.data.panoptic import PanopticSource, SemanticSource, num_semantic_classes
from jaxseg.types import IGNORED, TargetSpec
from tests.data.coco import small_panoptic
from tests.data.coco.small_folder import SIZE, content, write

CLASSES = 12


def semantic_map():
    values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % CLASSES
    values[:3] = IGNORED
    return values.astype(np.uint8)


def write_maps(tmp_path, subfolder=""):
    write(tmp_path, content())
    folder = tmp_path / "stuffthingmaps" / subfolder
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(semantic_map()).save(folder / f"{name}.png")
    return folder


def config(tmp_path, **changes):
    settings = {"semantic_maps": "stuffthingmaps", "num_semantic_classes": CLASSES}
    return CocoFolder(str(tmp_path), **settings | changes)


@pytest.mark.parametrize("subfolder", ["", "train", "images"])
def test_maps_are_found_under_the_names_of_the_images(tmp_path, subfolder):
    folder = write_maps(tmp_path, subfolder)
    plain = CocoFolder(str(tmp_path)).open("train")
    for maps in ("stuffthingmaps", str(tmp_path / "stuffthingmaps")):
        source = config(tmp_path, semantic_maps=maps).open("train")
        assert source.semantic_folder == folder
        assert isinstance(source, SemanticSource)
        assert not isinstance(source, PanopticSource)
        assert num_semantic_classes(source) == CLASSES
        assert source.categories == plain.categories
        assert source.fingerprint != plain.fingerprint
        example = source[0]
        np.testing.assert_array_equal(example.semantic, semantic_map())
        assert example.semantic.dtype == np.uint8
        assert list(example.rles) == list(plain[0].rles)
    palette = Image.fromarray(semantic_map()).convert("P", palette=Image.Palette.WEB)
    palette.putdata(semantic_map().ravel())
    palette.save(folder / "a.png")
    np.testing.assert_array_equal(source[0].semantic, semantic_map())


def test_a_batch_has_the_map(tmp_path):
    write_maps(tmp_path)
    source = config(tmp_path).open("train")
    settings = DataConfig(config(tmp_path), ((32, 32),), max_objects=4)
    pipeline = TrainPipeline(source, settings, TargetSpec(semantic_stride=8), 1, seed=0)
    batches = pipeline.batches()
    semantic = next(batches).semantic
    batches.close()
    assert semantic.shape == (1, 4, 4)
    assert set(np.unique(semantic)) <= {*range(CLASSES), IGNORED}


def test_a_missing_map_is_refused_or_its_image_left_out(tmp_path):
    folder = write_maps(tmp_path)
    (folder / "b.png").unlink()
    with pytest.raises(
        ValueError,
        match=r"image id 8 \(file_name\): there is no semantic map '.*/stuffthingmaps/b.png'",
    ):
        config(tmp_path).open("train")
    source = config(tmp_path, ignore_issues=("semantic-missing",)).open("train")
    assert source.image_ids == [7]
    assert CocoFolder(str(tmp_path)).open("train").image_ids == [7, 8]


def test_an_image_outside_its_folder_is_not_taken_for_its_map(tmp_path):
    write_maps(tmp_path)
    image = tmp_path / "elsewhere.png"
    Image.fromarray(semantic_map()).save(image)
    annotations = content()
    for name in (str(image), "../elsewhere.png"):
        annotations["images"][0]["file_name"] = name
        write(tmp_path, annotations)
        assert CocoFolder(str(tmp_path), allow_outside_files=True).open("train")[0].image.shape
        with pytest.raises(ValueError, match=r"image id 7 .*elsewhere.png' is outside the image"):
            config(tmp_path, allow_outside_files=True).open("train")
    annotations["images"][0]["file_name"] = str(tmp_path / "images" / "a.png")
    write(tmp_path, annotations)
    source = config(tmp_path, allow_outside_files=True).open("train")
    np.testing.assert_array_equal(source[0].semantic, semantic_map())


READ = {
    "semantic-type": (np.zeros((*SIZE, 3), np.uint8), "of 8 bits, RGB: a semantic map has 8 bits"),
    "semantic-size": (semantic_map()[:-2], "a.png is 30x18, the image 30x20"),
    "semantic-class": (semantic_map() + 1, "it has the classes 12, but num_sema.* is 12"),
    "semantic-unreadable": (None, "cannot be decoded"),
}


@pytest.mark.parametrize("kind", READ)
def test_an_invalid_map_is_named_when_it_is_read(tmp_path, kind):
    values, message = READ[kind]
    path = write_maps(tmp_path) / "a.png"
    if values is None:
        path.write_bytes(path.read_bytes()[:50])
    else:
        Image.fromarray(values).save(path)
    source = config(tmp_path).open("train")
    with pytest.raises(ValueError, match=message) as error:
        source[0]
    assert [issue.kind for issue in error.value.issues] == [kind]
    assert str(error.value).startswith(f"{path}: image id 7: ")
    assert "--data.source.ignore-image-ids 7" in str(error.value)
    assert source[1].semantic.shape == tuple(SIZE)


def test_all_kinds_are_tested():
    kinds = {k for k in (*IGNORABLE, *FOUND_ON_READING) if k.startswith("semantic-")}
    assert kinds == READ.keys() | {"semantic-missing"}


def test_settings_that_cannot_be_are_refused(tmp_path):
    write_maps(tmp_path)
    for number in (None, 0, 256):
        with pytest.raises(ValueError, match=f"num_semantic_classes {number} must be the number"):
            config(tmp_path, num_semantic_classes=number).open("train")
    with pytest.raises(ValueError, match=r"num_semantic_classes 12 .* set their folder"):
        config(tmp_path, semantic_maps=None).open("train")
    with pytest.raises(FileNotFoundError, match=r"no folder of semantic maps .*/absent"):
        config(tmp_path, semantic_maps="absent").open("train")
    small_panoptic.write(tmp_path, small_panoptic.content())
    with pytest.raises(ValueError, match="set panoptic or semantic_maps, not both"):
        config(tmp_path, panoptic=True).open("train")
