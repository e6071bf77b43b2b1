"""Each kind of issue: found, refused by training, and skipped on request."""

import logging

import pytest

from jaxseg.data import CocoFolder
from jaxseg.data.coco.file import check_file
from jaxseg.data.issues import FATAL, FOUND_ON_READING, IGNORABLE, WARNINGS
from tests.data.coco.small_folder import SIZE, changed, compressed, content, disc, write
from tests.data.test_panoptic_issues import INVALID as PANOPTIC

FIELD = r"(?: \([a-z_, ]+\))?: "
"""The field between an entry and its message."""
SQUARE = [4.0, 2.0, 14.0, 2.0, 14.0, 12.0, 4.0, 12.0]


def change(path, value):
    """Return `content()` with one value replaced, or removed where `value` is ..."""
    return changed(content(), path, value)


def image(field, value):
    return change(("images", 1, field), value)


def annotation(field, value):
    return change(("annotations", 0, field), value)


def polygon(*polygons):
    return annotation("segmentation", list(polygons))


def rle(counts, size=SIZE):
    return annotation("segmentation", {"size": size, "counts": counts})


def duplicated(**changes):
    """Return `content()` with the second annotation repeated, with some fields changed."""
    data = content()
    data["annotations"].append(data["annotations"][1] | {"id": 9} | changes)
    return data


INVALID = {
    "cut": ('{"images": [', "file-json", "not valid JSON: Expecting value"),
    "deep": ("[" * 100_000, "file-json", "not valid JSON"),
    "long number": ('{"images": [' + "9" * 5000 + "]}", "file-json", "not valid JSON"),
    "other lists": ({"a": 1}, "file-coco", "no list of images, annotations, categories"),
    "object for a list": (change(("images",), {}), "file-coco", "no list of images"),
    "null": ("null", "file-coco", "None is not a JSON object"),
    "no images": ({"images": [], "annotations": [], "categories": []}, "split-empty", "no images"),
    "category as text": (change(("categories",), ["x"]), "category-not-object", "'x' is not"),
    "no name": (change(("categories", 1, "name"), ...), "category-field", "id 5: there is no name"),
    "name": (change(("categories", 1, "name"), 5), "category-name", "name 5 is not text"),
    "category": (change(("categories", 1, "id"), "5"), "category-id", "'5' is not a whole number"),
    "same category": (
        change(("categories", 1, "id"), 9),
        "category-id-duplicate",
        r"category id 9: id 9 is that of categories\[0\] too",
    ),
    "image as list": (change(("images", 1), [[1]]), "image-not-object", r"images\[1\]: \[\[1\]\]"),
    "no height": (image("height", ...), "image-field", "image id 8: there is no height"),
    "empty image": (change(("images", 1), {}), "image-field", r"images\[1\]: there is no id"),
    "empty annotation": (change(("annotations", 0), {}), "annotation-field", "there is no bbox"),
    "empty category": (change(("categories", 1), {}), "category-field", "there is no id"),
    "no file": (image("file_name", ...), "image-field", "image id 8: there is no file_name"),
    "no id": (image("id", ...), "image-field", r"images\[1\]: there is no id"),
    "id as text": (image("id", "8"), "image-id", r"images\[1\]: id '8' is not a whole number"),
    "id as bool": (image("id", True), "image-id", r"id True is not a whole number"),
    "long id": (image("id", 1 << 70), "image-id", r"is not a whole number below 2\*\*53"),
    "same image": (image("id", 7), "image-id-duplicate", r"id 7 is that of images\[0\] too"),
    "height as text": (image("height", "20"), "image-size", "height '20' is not a whole number"),
    "no pixels": (image("height", 0), "image-size", "image id 8: 30x0"),
    "many pixels": (image("height", 1 << 40), "image-size", "is not 1 to 89478485 pixels"),
    "name of image": (image("file_name", 3), "image-name", "file_name 3 is not text"),
    "absolute name": (image("file_name", "/a.png"), "image-outside", "'/a.png' leaves the image f"),
    "name above": (
        image("file_name", "x/../../images/a.png"),
        "image-outside",
        "image id 8: .* leaves the image folder.*allow it by `--data.source.allow-outside-files`",
    ),
    "same file": (image("file_name", "a.png"), "image-name-duplicate", "that of images.0. too"),
    "no such file": (image("file_name", "c.png"), "image-missing", "no file .*images/c.png"),
    "impossible file": (image("file_name", "a\0/b.png"), "image-missing", "no file"),
    "null annotation": (change(("annotations", 0), None), "annotation-not-object", "None is not"),
    "no box": (annotation("bbox", ...), "annotation-field", "annotation id 1: there is no bbox"),
    "no mask": (annotation("segmentation", ...), "annotation-field", "there is no segmentation"),
    "id of text": (annotation("image_id", "7"), "annotation-id", "image_id '7' is not a whole"),
    "same id": (annotation("id", 2), "annotation-id-duplicate", "id 2 is that of annotations.0."),
    "image": (annotation("image_id", 99), "annotation-image", "id 1: image_id 99 is not in images"),
    "label": (annotation("category_id", 99), "annotation-category", "99 is not in categories"),
    "crowd": (annotation("iscrowd", "0"), "annotation-crowd", "iscrowd '0' is neither"),
    "area": (annotation("area", None), "annotation-area", "area None is not"),
    "NaN area": (annotation("area", float("nan")), "annotation-area", "area nan is not"),
    "box of three": (annotation("bbox", [1, 2, 3]), "box-numbers", "id 1: bbox .* four finite"),
    "NaN box": (annotation("bbox", [1, 2, float("nan"), 4]), "box-numbers", "four finite"),
    "infinite box": (annotation("bbox", [1, 2, 3, float("inf")]), "box-numbers", "four finite"),
    "text box": (annotation("bbox", [1, 2, 3, "4"]), "box-numbers", "four finite"),
    "long box": (annotation("bbox", [1, 2, 3, 10**400]), "box-numbers", "four finite"),
    "negative box": (
        annotation("bbox", [1, 2, -3, 4]),
        "box-negative",
        "bbox .* negative width or height",
    ),
    "far box": (annotation("bbox", [4, 2, 10, 1e300]), "box-far", "beyond the image by more than"),
    "other box": (
        annotation("bbox", [18, 2, 10, 10]),
        "box-mask",
        r"does not match the mask, whose box is \[4, 2, 10, 10\]",
    ),
    "corners as box": (annotation("bbox", [4, 2, 24, 18]), "box-mask", "does not match the mask"),
    "null mask": (annotation("segmentation", None), "mask-type", "id 1: segmentation None is nei"),
    "half an RLE": (annotation("segmentation", {"size": SIZE}), "mask-type", "neither polygons"),
    "no polygons": (polygon(), "mask-empty", "id 1: segmentation is empty"),
    "no pixel": (rle([600]), "mask-empty", "id 1: the mask has no pixel"),
    "bare polygon": (polygon(*SQUARE), "polygon-type", "polygon 0 is 4.0, not a list"),
    "text polygon": (polygon(["a", *SQUARE[1:]]), "polygon-numbers", "polygon 0 is .*not numbers"),
    "null polygon": (polygon([None, *SQUARE[1:]]), "polygon-numbers", "not numbers"),
    "nested polygon": (polygon([[[SQUARE]]]), "polygon-numbers", "not numbers"),
    "NaN polygon": (polygon([float("nan"), *SQUARE[1:]]), "polygon-numbers", "not finite"),
    "second polygon": (polygon(SQUARE, [1, 2, 3]), "polygon-short", "id 1: polygon 1 has 3"),
    "box as polygon": (polygon([4, 2, 10, 10]), "polygon-box", "two points, or a box"),
    "odd polygon": (polygon([*SQUARE, 1]), "polygon-odd", "polygon 0 has 9 numbers"),
    "far polygon": (polygon([1e12, *SQUARE[1:]]), "polygon-far", r"x 4 to 1e\+12.* is 30x20"),
    "immense polygon": (polygon([1e308, *SQUARE[1:]]), "polygon-far", r"x 4 to 1e\+308"),
    "long polygon": (
        polygon([0.0, 0, 29, 19, 29, 0] * 90),
        "polygon-long",
        r"polygon 0 has an outline of more than 6400 pixels, 64 times the image's",
    ),
    "polygon outside": (
        polygon([31, 1, 40, 1, 40, 9]),
        "polygon-outside",
        "outside the image: x 31 to 40, y 1 to 9; the image is 30x20",
    ),
    "size": (rle([16], [4, 4]), "rle-size", r"id 1: the mask's size \[4, 4\] is not the image's"),
    "turned size": (rle([100, 500], SIZE[::-1]), "rle-size", "the mask's size"),
    "sum": (rle([16]), "rle-sum", "id 1: the RLE's counts do not add up"),
    "negative": (rle([605, -5]), "rle-sum", "do not add up"),
    "overflow": (rle([1 << 62, 1 << 62, 1 << 63, 600]), "rle-sum", "beyond 2"),
    "empty text": (rle(""), "rle-sum", "do not add up"),
    "short text": (rle("b2::"), "rle-sum", "do not add up"),
    "fractions": (rle([0.5, 599.5]), "rle-text", r"\[0.5, 599.5\]; they must be whole numbers"),
    "cut text": (rle(compressed(disc())["counts"] + "P"), "rle-text", "not COCO's compressed"),
    "long text": (rle("P" * 9 + "0"), "rle-text", "not COCO's compressed text"),
    "foreign text": (rle("\xe9"), "rle-text", "not COCO's compressed text"),
    "null counts": (rle(None), "rle-text", "counts are None"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_refused_and_read_without_the_issue(tmp_path, name):
    data, kind, message = INVALID[name]
    folder = write(tmp_path, data)
    with pytest.raises(ValueError, match=message.replace(": ", FIELD, 1)) as error:
        folder.open("train")
    assert "train.json has invalid annotations, which training refuses" in str(error.value)
    issues = check_file(tmp_path / "train.json", tmp_path / "images").issues
    found = {issue.kind for issue in issues} - WARNINGS.keys()
    if kind not in IGNORABLE:
        assert kind in found  # references to an invalid category are invalid too
        skip = "skip them with `--data.source.ignore-issues annotation-category`"
        assert skip in str(error.value) or found == {kind}
        return
    assert found == {kind}
    missing_fields = {"empty image": 4, "empty annotation": 5}
    assert sum(issue.kind == kind for issue in issues) == missing_fields.get(name, 1)
    assert f"skip them with `--data.source.ignore-issues {kind}`" in str(error.value)
    source = CocoFolder(str(tmp_path), ignore_issues=(kind,)).open("train")
    assert len(source) == (1 if kind.startswith("image") else 2)
    assert len(source[0].boxes) == (3 if kind.startswith("image") else 2)
    truth = source.ground_truth()
    assert len(truth["images"]) == len(source)
    assert len(truth["annotations"]) == len(source[0].boxes) + 1  # also the one without area


def test_annotations_without_any_image_are_refused(tmp_path):
    folder = write(tmp_path, change(("images",), []))
    with pytest.raises(ValueError, match="there are no images"):
        folder.open("train")


def test_all_kinds_found_on_opening_are_tested():
    tested = {kind for _, kind, _ in (*INVALID.values(), *PANOPTIC.values())} | WARNINGS.keys()
    tested |= {"semantic-missing"}  # in test_semantic_maps.py
    assert tested | set(FOUND_ON_READING) == IGNORABLE.keys() | FATAL.keys()


def kinds_of(tmp_path, data):
    write(tmp_path, data)
    content = check_file(tmp_path / "train.json", tmp_path / "images")
    return [issue.kind for issue in content.issues]


def test_duplicate_annotations_are_warnings_and_skipped_only_on_request(tmp_path):
    assert kinds_of(tmp_path, duplicated()) == ["box-zero", "annotation-duplicate"]
    folder = CocoFolder(str(tmp_path))
    assert len(folder.open("train")[0].boxes) == 4
    skipping = CocoFolder(str(tmp_path), ignore_issues=("annotation-duplicate",)).open("train")
    assert len(skipping[0].boxes) == 3
    for changes in ({"image_id": 8}, {"category_id": 5}, {"segmentation": [SQUARE]}):
        assert "annotation-duplicate" not in kinds_of(tmp_path, duplicated(**changes))


def test_unusual_but_valid_masks_are_read(tmp_path):
    bow = [4.0, 2.0, 14.0, 12.0, 14.0, 2.0, 4.0, 12.0]  # crosses itself: pycocotools fills it
    crossing = change(("annotations", 0, "segmentation"), [bow])
    beyond = annotation("segmentation", [[-5, 2, 14, 2, 14, 12, -5, 12]])
    beyond["annotations"][0]["bbox"] = [-5, 2, 19, 10]
    many = content()
    for number in range(1000):
        x, y = number % 25, number // 60
        square = [x, y, x + 3, y, x + 3, y + 3, x, y + 3]
        box = {"bbox": [x, y, 3, 3], "segmentation": [square, [1, 1, 2, 1, 2, number / 99 + 2]]}
        box["bbox"] = [min(x, 1), min(y, 1), max(x + 3, 2) - min(x, 1), 0]
        box["bbox"][3] = max(y + 3, number / 99 + 2) - min(y, 1)
        many["annotations"].append(many["annotations"][0] | {"id": 100 + number} | box)
    for data, objects in ((crossing, 3), (beyond, 3), (many, 1003)):
        assert kinds_of(tmp_path, data) == ["box-zero"]
        example = CocoFolder(str(tmp_path)).open("train")[0]
        assert len(example.boxes) == len(example.rles) == objects


def test_an_unknown_kind_to_ignore_is_refused_with_the_known_ones(tmp_path):
    write(tmp_path, content())
    with pytest.raises(
        ValueError, match=r"ignore_issues: 'box-tiny' cannot be ignored; .*box-negative, .*rle-text"
    ):
        CocoFolder(str(tmp_path), ignore_issues=("box-tiny",)).open("train")
    with pytest.raises(ValueError, match="ignore_issues: 'file-json' cannot be ignored"):
        CocoFolder(str(tmp_path), ignore_issues=("file-json",)).open("train")


def test_skipped_images_and_annotations_are_logged(tmp_path, caplog):
    folder = write(tmp_path, image("height", 0))
    with caplog.at_level(logging.WARNING):
        CocoFolder(folder.path, ignore_issues=("image-size",)).open("train")
    assert "train.json: skipped 1 annotations with boxes without area" in caplog.text
    assert "skipped 1 images and 0 annotations with these issues: 1 image-size" in caplog.text


def test_skipping_all_images_is_an_error(tmp_path):
    data = content()
    for entry in data["images"]:
        entry["height"] = 0
    write(tmp_path, data)
    with pytest.raises(ValueError, match=r"train.json: no image is left"):
        CocoFolder(str(tmp_path), ignore_issues=("image-size",)).open("train")


def test_the_error_counts_all_issues_and_shows_the_first(tmp_path):
    data = content()
    data["annotations"] += [
        data["annotations"][0] | {"id": n, "bbox": [0, 0, -1, 1]} for n in range(10, 18)
    ]
    with pytest.raises(
        ValueError, match=r"training refuses: 8 box-negative\n(.*\n){5}  ... and 3 more"
    ):
        write(tmp_path, data).open("train")


@pytest.mark.parametrize("name", ["coco_mini", "nuclei"])
def test_real_data_has_no_issue(shared, name):
    for split in ("train", "val"):
        source = CocoFolder(str(shared / "data" / name)).open(split)
        assert check_file(source.path, source.image_folder).issues == []
