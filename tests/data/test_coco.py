import copy
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from jaxseg.data import CocoFolder, read_image
from jaxseg.data.coco import _runs, to_rle

SIZE = [20, 30]


def disc():
    bitmap = np.zeros(SIZE, np.uint8)
    cv2.circle(bitmap, (12, 9), 6, 1, -1)
    return bitmap


def uncompressed(bitmap):
    flat = bitmap.flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": SIZE, "counts": np.diff([0, *changes, flat.size]).tolist()}


def compressed(bitmap):
    rle = mask_api.encode(np.asfortranarray(bitmap))
    return {"size": SIZE, "counts": rle["counts"].decode()}


def content():
    square = [[4.0, 2.0, 14.0, 2.0, 14.0, 12.0, 4.0, 12.0]]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 2, 10, 10], "segmentation": square},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 9,
            "bbox": [6, 3, 13, 13],
            "segmentation": compressed(disc()),
        },
        {
            "id": 3,
            "image_id": 7,
            "category_id": 9,
            "bbox": [6, 3, 13, 13],
            "segmentation": uncompressed(disc()),
            "iscrowd": 1,
        },
        {"id": 4, "image_id": 7, "category_id": 5, "bbox": [1, 1, 0, 4], "segmentation": square},
    ]
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 8, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "cell"}, {"id": 5, "name": "box"}],
    }


def write(folder, data):
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / "images" / name), np.full((*SIZE, 3), 90, np.uint8))
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "train.json").write_text(text)
    return CocoFolder(str(folder))


def test_every_kind_of_mask_is_read(tmp_path):
    source = write(tmp_path, content()).open("train")
    assert [c.name for c in source.categories] == ["box", "cell"]  # by id
    assert len(source) == 2
    example = source[0]
    assert example.image.shape == (*SIZE, 3)
    np.testing.assert_allclose(example.boxes[0], [4, 2, 14, 12])
    assert example.labels.tolist() == [0, 1, 1]  # the annotation without area is left out
    assert example.crowd.tolist() == [False, False, True]
    truth = COCO()
    truth.dataset = copy.deepcopy(source.ground_truth())
    truth.createIndex()
    for rle, annotation in zip(example.rles, truth.dataset["annotations"], strict=False):
        np.testing.assert_array_equal(mask_api.decode(rle), truth.annToMask(annotation))
    np.testing.assert_array_equal(mask_api.decode(example.rles[2]), disc())
    empty = source[1]
    assert empty.boxes.shape == (0, 4)
    assert len(empty.rles) == 0


def test_cocos_own_layout_and_the_list_of_splits(tmp_path):
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


def change(path, value):
    """`content()` with one value replaced, or removed where `value` is ..."""
    data = content()
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def annotation(field, value):
    return change(("annotations", 0, field), value)


BROKEN = {
    "not JSON": ('{"images": [', "train.json is not valid JSON"),
    "not COCO": ({"a": 1}, "no list of images, annotations, categories"),
    "not an object": ("null", "is not a JSON object"),
    "category without name": (
        change(("categories", 1, "name"), ...),
        r"categories\[1\] has no name",
    ),
    "height as text": (change(("images", 0, "height"), "20"), "height '20' is not a whole number"),
    "no pixels": (change(("images", 0, "height"), 0), r"images\[0\] has no pixels"),
    "no images": (change(("images",), []), "has no images"),
    "image without size": (change(("images", 1, "height"), ...), r"images\[1\] has no height"),
    "absent image": (change(("images", 1, "file_name"), "c.png"), "the first is c.png"),
    "duplicate image": (change(("images", 1, "id"), 7), "image id 7 occurs 2 times"),
    "duplicate category": (change(("categories", 1, "id"), 9), "category id 9 occurs 2"),
    "duplicate annotation": (annotation("id", 2), "annotation id 2 occurs 2 times"),
    "no box": (annotation("bbox", ...), "annotation id 1 has no bbox"),
    "unknown image": (annotation("image_id", 99), "id 1: image_id 99 is not in images"),
    "unknown category": (annotation("category_id", 99), "category_id 99 is not in categories"),
    "negative box": (annotation("bbox", [1, 2, -3, 4]), "id 1: bbox .* negative side"),
    "NaN box": (annotation("bbox", [1, 2, float("nan"), 4]), "id 1: bbox .* finite"),
    "odd polygon": (annotation("segmentation", [[1, 2, 3, 4, 5, 6, 7]]), "id 1: a polygon"),
    "short polygon": (annotation("segmentation", [[1, 2, 3, 4]]), "id 1: a polygon"),
    "far polygon": (annotation("segmentation", [[1, 2, 1e12, 4, 5, 6]]), "none beyond 100000"),
    "NaN polygon": (annotation("segmentation", [[1, 2, float("nan"), 4, 5, 6]]), "none beyond"),
    "text polygon": (annotation("segmentation", [["a", 2, 3, 4, 5, 6]]), "must be numbers"),
    "empty mask": (annotation("segmentation", []), "id 1: segmentation is empty"),
    "wrong RLE size": (
        annotation("segmentation", {"size": [4, 4], "counts": [16]}),
        "id 1: the mask's size",
    ),
    "wrong RLE sum": (
        annotation("segmentation", {"size": SIZE, "counts": [16]}),
        "id 1: the RLE's counts do not add up",
    ),
    "negative RLE": (
        annotation("segmentation", {"size": SIZE, "counts": [605, -5]}),
        "do not add up",
    ),
    "fractional RLE": (
        annotation("segmentation", {"size": SIZE, "counts": [0.5, 599.5]}),
        "not whole numbers",
    ),
    "empty RLE": (annotation("segmentation", {"size": SIZE, "counts": ""}), "do not add up"),
    "short RLE": (annotation("segmentation", {"size": SIZE, "counts": "b2::"}), "do not add up"),
    "cut RLE": (
        annotation("segmentation", {"size": SIZE, "counts": compressed(disc())["counts"] + "P"}),
        "not COCO's compressed text",
    ),
    "text RLE": (
        annotation("segmentation", {"size": SIZE, "counts": "\xe9"}),
        "not COCO's compressed text",
    ),
    "no mask": (annotation("segmentation", None), "id 1: segmentation is neither"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_annotations_are_refused_by_name(tmp_path, name):
    data, message = BROKEN[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write(tmp_path, data).open("train")


def test_compressed_runs_are_those_of_the_mask():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        bitmap = (rng.random((37, 211)) < share).astype(np.uint8)
        runs = _runs(compressed(bitmap)["counts"], "here")
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        np.testing.assert_array_equal(flat, bitmap.flatten(order="F"))


def test_ground_truth_says_what_evaluation_needs_of_every_annotation(tmp_path):
    truth = write(tmp_path, content()).open("train").ground_truth()["annotations"]
    assert [a["id"] for a in truth] == [1, 2, 3, 4]  # also the one without area
    assert [a["iscrowd"] for a in truth] == [0, 0, 1, 0]
    assert [a["area"] for a in truth] == [100, disc().sum(), disc().sum(), 100]


def test_the_number_of_annotations_left_out_is_logged(tmp_path, caplog):
    write(tmp_path, content()).open("train")
    assert "train.json: 1 annotations have boxes without area" in caplog.text


def test_an_image_of_another_size_or_undecodable_is_refused_by_name(tmp_path):
    source = write(tmp_path, content()).open("train")
    cv2.imwrite(str(tmp_path / "images" / "b.png"), np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"b.png is 6x5 pixels, but .* says 30x20 \(image id 8\)"):
        source[1]
    (tmp_path / "images" / "a.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"a.png cannot be decoded"):
        source[0]


def test_images_of_every_mode_become_rgb(tmp_path):
    from PIL import Image

    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    images = {
        "L": Image.fromarray(grey),
        "RGBA": Image.fromarray(np.dstack([grey] * 4)),
        "P": Image.fromarray(grey).convert("P"),
        "I;16": Image.fromarray(grey.astype(np.uint16) << 8),
    }
    for mode, image in images.items():
        path = tmp_path / f"{mode.replace(';', '')}.png"
        image.save(path)
        pixels = read_image(path)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, np.dstack([grey] * 3), err_msg=mode)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    from PIL import Image

    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    path = tmp_path / "a.png"
    Image.fromarray(grey).convert("P").save(path, transparency=bytes([0, 128, 255] * 5))
    np.testing.assert_array_equal(read_image(path), np.dstack([grey] * 3))


def test_polygons_outside_the_image_are_cut():
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
def test_real_data_is_read_whole(shared, folder, split):
    source = CocoFolder(str(shared / "data" / folder)).open(split)
    objects = sum(len(source[i].boxes) for i in range(len(source)))
    assert objects == len(source.ground_truth()["annotations"])
