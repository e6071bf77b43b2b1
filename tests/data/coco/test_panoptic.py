"""COCO's panoptic format as a source."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data import CocoFolder, DataConfig, shared_arrays, train_batches
from jaxseg.data.coco.categories import COCO_CATEGORIES, COCO_STUFF
from jaxseg.data.panoptic import PanopticSource, num_semantic_classes, thing_categories
from jaxseg.evaluation import Prediction, coco_results, evaluate
from jaxseg.types import IGNORED, ImageMasks, TargetSpec
from tests.data.coco import small_folder
from tests.data.coco.small_panoptic import LABELS, SIZE, content, pixels, write


@pytest.fixture
def source(tmp_path):
    return write(tmp_path, content()).open("train")


def test_things_come_first_and_are_the_objects(source):
    assert isinstance(source, PanopticSource)
    assert [(c.id, c.name) for c in source.categories] == [
        (12, "person"),
        (30, "dog"),
        (4, "grass"),
        (9, "sky"),
    ]
    assert source.num_things == len(thing_categories(source)) == 2
    assert num_semantic_classes(source) == 4
    assert source.image_ids == [5, 3]
    assert source.image_sizes.tolist() == [list(SIZE)] * 2
    assert source.object_counts.tolist() == [2, 0]
    example, ids = source[0], pixels()
    assert example.image.shape == (*SIZE, 3)
    assert example.labels.tolist() == [0, 1, 0]
    assert example.iscrowd.tolist() == [True, False, False]
    for rle, box, segment_id in zip(
        example.rles, example.boxes.tolist(), (16_000_000, 70_001, 70_000), strict=True
    ):
        mask = mask_api.decode(rle) > 0
        np.testing.assert_array_equal(mask, ids == segment_id)
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert len(source[1].boxes) == len(source[-1].rles) == 0


def test_the_map_has_the_class_of_every_segment_and_ignores_void(source):
    ids, semantic = pixels(), source[0].semantic
    assert semantic.dtype == np.uint8
    for annotation in content()["annotations"][1]["segments_info"]:
        label = LABELS[annotation["category_id"]]
        assert (semantic[ids == annotation["id"]] == label).all()  # crowds, too
    assert (semantic[ids == 0] == IGNORED).all()
    assert (source[1].semantic == LABELS[9]).all()


def test_the_panoptic_map_is_that_of_the_files(source):
    panoptic = source.panoptic_map(0)
    assert panoptic.ids.dtype == np.int32
    np.testing.assert_array_equal(panoptic.ids, pixels())
    listed = [
        (s["id"], LABELS[s["category_id"]], bool(s["iscrowd"]), None)
        for s in content()["annotations"][1]["segments_info"]
    ]
    assert [tuple(segment) for segment in panoptic.segments] == listed


def test_ground_truth_has_the_things_and_ap_1(source):
    truth = source.ground_truth()
    assert [c["name"] for c in truth["categories"]] == ["person", "dog"]
    assert {a["segment_id"] for a in truth["annotations"]} == {16_000_000, 70_001, 70_000}
    example = source[0]
    kept = np.flatnonzero(~example.iscrowd)
    prediction = Prediction(
        example.image_id,
        example.boxes[kept],
        np.ones(2, np.float32),
        example.labels[kept],
        [example.rles[i] for i in kept],
    )
    metrics = evaluate(truth, coco_results([prediction], [c.id for c in source.categories]))
    assert metrics["bbox/AP"] == metrics["segm/AP"] == pytest.approx(1)


def test_instances_are_read_unless_panoptic_is_set(tmp_path):
    panoptic = write(tmp_path, content())
    assert isinstance(panoptic.open("train"), PanopticSource)  # there is nothing else
    instances = small_folder.content()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(instances))
    opened = CocoFolder(str(tmp_path)).open("train")
    assert not isinstance(opened, PanopticSource)
    assert num_semantic_classes(opened) is None
    assert opened[0].semantic is None
    assert isinstance(CocoFolder(str(tmp_path), panoptic=True).open("train"), PanopticSource)


def test_splits_are_found_by_role_and_file(tmp_path):
    write(tmp_path, content(), "train2017")
    with pytest.raises(FileNotFoundError, match=r"no split 'val' \(found: train2017\)"):
        CocoFolder(str(tmp_path)).open("val")
    write(tmp_path, content(), "val2017")
    assert CocoFolder(str(tmp_path)).open("val").path.name == "panoptic_val2017.json"
    file = tmp_path / "annotations" / "panoptic_val2017.json"
    parts = [CocoFolder(str(file)).open(role).image_ids for role in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == [3, 5]
    at_top = tmp_path / "top"
    at_top.mkdir()
    for name in ("panoptic_val2017", "panoptic_val2017.json"):
        (tmp_path / "annotations" / name).rename(at_top / name)
    (tmp_path / "val2017").rename(at_top / "val2017")
    assert len(CocoFolder(str(at_top)).open("val")) == 2


def test_fingerprint_depends_on_the_segments_and_not_on_skipped_images(tmp_path):
    folder = write(tmp_path, content())
    first = folder.open("train").fingerprint
    skipping = CocoFolder(str(tmp_path), ignore_image_ids=(3,)).open("train")
    assert skipping.image_ids == [5]
    assert skipping.fingerprint == first
    for field, value in (("category_id", 30), ("iscrowd", 1), ("area", 9), ("id", 70_003)):
        data = content()
        data["annotations"][1]["segments_info"][4][field] = value
        assert write(tmp_path, data).open("train").fingerprint != first, field
    with pytest.raises(ValueError, match="has no image id 77"):
        CocoFolder(str(tmp_path), ignore_image_ids=(77,)).open("train")


def test_batches_do_not_depend_on_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_arrays, "_MIN_FILE_BYTES", 0)  # arrays go through files
    folder = write(tmp_path, content())
    targets = TargetSpec(ImageMasks(4), semantic_stride=4)
    batches = []
    for num_workers in (0, 1):
        config = DataConfig(folder, ((32, 32),), max_objects=4, num_workers=num_workers)
        stream = train_batches(folder.open("train"), config, targets, batch_size=2, seed=0)
        batches.append(next(stream))
        stream.close()
    assert batches[0].semantic.shape == (2, 8, 8)
    assert batches[0].semantic.dtype == np.uint8
    for first, second in zip(*batches, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_source_and_its_errors_can_be_pickled(source):
    (source.map_folder / "a.png").write_bytes(b"no PNG")
    with pytest.raises(ValueError, match="is not a PNG") as error:
        pickle.loads(pickle.dumps(source))[0]
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_things_of_coco_are_those_of_the_instance_file(shared):
    folder = CocoFolder(str(shared / "data" / "coco_panoptic"))
    instances = folder.open("val")
    source = CocoFolder(folder.path, panoptic=True).open("val")
    assert source.categories == [*COCO_CATEGORIES, *COCO_STUFF]
    assert source.num_things == 80
    assert thing_categories(source) == instances.categories
    assert source.image_ids == instances.image_ids
    np.testing.assert_array_equal(source.object_counts, instances.object_counts)

    def key(annotation):
        fields = ("image_id", "category_id", "iscrowd", "bbox", "area")
        return json.dumps([annotation[field] for field in fields] + [annotation["segmentation"]])

    truth, expected = source.ground_truth(), instances.ground_truth()
    for annotation in expected["annotations"]:
        annotation["area"] = float(annotation["area"])
        annotation["bbox"] = [int(side) for side in annotation["bbox"]]
    found = sorted(map(key, truth["annotations"]))
    assert found == sorted(map(key, expected["annotations"]))
    for index in (0, 7):
        example, panoptic = source[index], source.panoptic_map(index)
        for segment in panoptic.segments:
            assert (example.semantic[panoptic.ids == segment.id] == segment.label).all()
        assert (example.semantic[panoptic.ids == 0] == IGNORED).all()
