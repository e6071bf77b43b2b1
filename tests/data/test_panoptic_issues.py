"""Each kind of issue of panoptic annotations: found and named, refused, and skipped on request."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from jaxseg.commands.cli import main
from jaxseg.data import CocoFolder
from jaxseg.data.coco.panoptic_file import check_panoptic_file
from jaxseg.data.issues import FOUND_ON_READING, IGNORABLE, WARNINGS
from tests.data.coco.small_folder import changed
from tests.data.coco.small_panoptic import SIZE, content, encode, pixels, segment, write


def change(path, value):
    """Return `content()` with one value replaced, or removed where `value` is ..."""
    return changed(content(), path, value)


def annotation(field, value):
    return change(("annotations", 1, field), value)


def segment_of(field, value):
    """Change the second segment, sky, of image id 5."""
    return change(("annotations", 1, "segments_info", 1, field), value)


def extended(*path, value):
    data = content()
    container = data
    for key in path:
        container = container[key]
    container.append(value)
    return data


SKY = "image id 5, segment id 7"
INVALID = {
    "cut": ('{"images": [', "file-json", "not valid JSON"),
    "other lists": ({"a": 1}, "file-coco", "no list of images, annotations, categories"),
    "no images": (change(("images",), []), "split-empty", "there are no images"),
    "no name": (change(("categories", 1, "name"), ...), "category-field", "there is no name"),
    "no isthing": (change(("categories", 1, "isthing"), ...), "category-field", "no isthing"),
    "isthing": (
        change(("categories", 1, "isthing"), "yes"),
        "category-isthing",
        r"category id 30 \(isthing\): isthing 'yes' is neither 0 nor 1",
    ),
    "many categories": (
        change(
            ("categories",),
            content()["categories"]
            + [{"id": 100 + n, "name": f"{n}", "isthing": 0} for n in range(252)],
        ),
        "category-count",
        "256 categories are more than 255",
    ),
    "image id": (change(("images", 0, "id"), "5"), "image-id", "'5' is not a whole number"),
    "no image file": (change(("images", 0, "file_name"), "c.png"), "image-missing", "no file .*c"),
    "annotation as text": (
        change(("annotations", 1), "x"),
        "annotation-not-object",
        r"annotations\[1\]: 'x' is not a JSON object",
    ),
    "no segments": (annotation("segments_info", ...), "annotation-field", "no segments_info"),
    "no map": (annotation("file_name", ...), "annotation-field", "image id 5 .*no file_name"),
    "image of text": (annotation("image_id", "5"), "annotation-id", "'5' is not a whole number"),
    "unknown image": (annotation("image_id", 99), "annotation-image", "image_id 99 is not in im"),
    "unannotated": (
        change(("annotations", 1), ...),
        "image-unannotated",
        "image id 5: the image has no annotation, so no panoptic map",
    ),
    "twice": (
        extended("annotations", value=content()["annotations"][1]),
        "image-annotated-twice",
        r"image id 5 \(image_id\): the image has annotations\[1\] too \(this is annotations\[2\]\)",
    ),
    "map above": (annotation("file_name", "../a.png"), "png-name", r"'../a.png' is not the name"),
    "map of number": (annotation("file_name", 3), "png-name", "file_name 3 is not the name of"),
    "map missing": (
        annotation("file_name", "c.png"),
        "png-missing",
        "image id 5 .*there is no file .*annotations/panoptic_train/c.png",
    ),
    "segments as object": (annotation("segments_info", {}), "segment-list", "{} is not a list"),
    "segment as number": (
        change(("annotations", 1, "segments_info", 1), 7),
        "segment-not-object",
        r"image id 5, a segment, row 2: 7 is not a JSON object",
    ),
    "no category": (segment_of("category_id", ...), "segment-field", f"{SKY} .*no category_id"),
    "id as text": (segment_of("id", "7"), "segment-id", "image id 5, .* '7' is not a whole"),
    "id of void": (segment_of("id", 0), "segment-id", "id 0 is not from 1 to 16777215"),
    "long id": (segment_of("id", 1 << 24), "segment-id", "id 16777216 is not from 1 to"),
    "same id": (
        segment_of("id", 300),
        "segment-id-duplicate",
        "image id 5, segment id 300 .*an earlier segment of the image has this id",
    ),
    "unknown category": (
        segment_of("category_id", 99),
        "segment-category",
        rf"{SKY} \(category_id\): category_id 99 is not in categories",
    ),
    "crowd": (segment_of("iscrowd", 2), "segment-crowd", f"{SKY} .*iscrowd 2 is neither"),
    "area": (segment_of("area", -1), "segment-area", f"{SKY} .*area -1 is not a whole number"),
    "NaN area": (segment_of("area", float("nan")), "segment-area", "area nan is not"),
    "box": (segment_of("bbox", [0, 0, 1]), "segment-box", rf"{SKY} .*bbox \[0, 0, 1\] is not four"),
    "half box": (segment_of("bbox", [0, 0, 1, 0.5]), "segment-box", "is not four whole numbers"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_refused_and_read_without_the_image(tmp_path, name):
    data, kind, message = INVALID[name]
    folder = write(tmp_path, data)
    with pytest.raises(ValueError, match=message) as error:
        folder.open("train")
    assert "panoptic_train.json has invalid annotations, which training ref" in str(error.value)
    file = tmp_path / "annotations" / "panoptic_train.json"
    found = {i.kind for i in check_panoptic_file(file, tmp_path / "train").issues}
    assert kind in found - WARNINGS.keys()
    if kind not in IGNORABLE:
        return
    # An annotation that belongs to no image leaves one without.
    left_over = {"image-unannotated", "annotation-image", "annotation-id", "annotation-field"}
    ignored = tuple(found - WARNINGS.keys())
    assert set(ignored) <= {kind} | left_over
    source = CocoFolder(str(tmp_path), ignore_issues=ignored).open("train")
    assert source.image_ids == [3]
    assert source[0].semantic.shape == SIZE


def map_with(changes):
    """Return the ids of the first image with some pixels changed."""
    ids = pixels()
    for place, value in changes:
        ids[place] = value
    return ids


def with_colour(mode, dtype=np.uint8):
    def save(path):
        Image.fromarray(np.zeros(SIZE, dtype)).convert(mode).save(path)

    return save


def with_ids(ids):
    return lambda path: Image.fromarray(encode(ids)).save(path)


def save_16_bits(path):
    import cv2

    cv2.imwrite(str(path), encode(pixels()).astype(np.uint16) * 256)


READ = {
    "no PNG": (lambda path: path.write_bytes(b"GIF89a" * 9), "png-type", "a.png is not a PNG"),
    "empty file": (lambda path: path.write_bytes(b""), "png-type", "a.png is not a PNG"),
    "JPEG": (lambda path: Image.new("RGB", SIZE[::-1]).save(path, "JPEG"), "png-type", "is not a"),
    "grey": (with_colour("L"), "png-type", "a.png is a PNG of 8 bits, grey"),
    "grey of 16 bits": (
        lambda path: Image.fromarray(np.zeros(SIZE, np.uint16)).save(path),
        "png-type",
        "of 16 bits, grey",
    ),
    "palette": (with_colour("P"), "png-type", "of 8 bits, palette"),
    "one bit": (with_colour("1"), "png-type", "of 1 bits, grey"),
    "alpha": (with_colour("RGBA"), "png-type", "of 8 bits, RGBA"),
    "RGB of 16 bits": (save_16_bits, "png-type", "of 16 bits, RGB"),
    "cut": (
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        "png-unreadable",
        "a.png cannot be decoded as an image",
    ),
    "other size": (with_ids(pixels()[:-1]), "png-size", "a.png is 30x19, the image 30x20"),
    "transposed": (with_ids(pixels().T), "png-size", "a.png is 20x30, the image 30x20"),
    "unknown id": (
        with_ids(map_with([((0, slice(0, 3)), 90_000)])),
        "segment-unknown",
        r"image id 5, segment id 90000 \(segments_info\): 3 pixels have this id",
    ),
    "empty segment": (
        with_ids(np.where(pixels() == 70_001, 300, pixels())),
        "segment-empty",
        r"image id 5, segment id 70001 \(id\): the segment has no pixel",
    ),
    "overlap": (
        with_ids(map_with([((15, 3), 300)])),
        "segment-area-differs",
        r"image id 5, segment id 70001 \(area\): area 24, but 23 pixels of the map",
    ),
    "moved": (
        with_ids(map_with([((slice(14, 18), 27), 300), ((slice(14, 18), 20), 70_001)])),
        "segment-box-differs",
        r"segment id 70001 .*bbox \[2, 14, 26, 4\], but that .*is \[2, 14, 25, 4\]",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_an_invalid_map_is_named_when_it_is_read(tmp_path, name):
    save, kind, message = READ[name]
    source = write(tmp_path, content()).open("train")
    save(source.map_folder / "a.png")
    for read in (lambda: source[0], lambda: source.panoptic_map(0), source.ground_truth):
        with pytest.raises(ValueError, match=message) as error:
            read()
        assert kind in {issue.kind for issue in error.value.issues}
        text = str(error.value)
        assert text.startswith(str(source.map_folder / "a.png"))
        assert f"[{kind}]" in text
        assert "--data.source.ignore-image-ids 5" in text
    assert source[1].semantic.shape == SIZE


def test_all_kinds_are_tested():
    tested = {kind for _, kind, _ in INVALID.values()} | {kind for _, kind, _ in READ.values()}
    new = {
        kind
        for kind in IGNORABLE.keys() | set(FOUND_ON_READING)
        if kind.startswith(("png", "segment", "image-unannotated", "image-annotated"))
    }
    assert new - WARNINGS.keys() <= tested


def issues_of(folder):
    file = folder / "annotations" / "panoptic_train.json"
    return check_panoptic_file(file, folder / "train").issues


def test_warnings_name_extra_maps_stuff_twice_and_things_without_instances(tmp_path):
    first = pixels()
    first[0, :4] = 8
    data = extended("annotations", 1, "segments_info", value=segment(first, 8, 9))
    data["annotations"][1]["segments_info"][1] = segment(first, 7, 9)
    data["annotations"][1]["segments_info"][2]["iscrowd"] = 1
    folder = write(tmp_path, data)
    maps = tmp_path / "annotations" / "panoptic_train"
    with_ids(first)(maps / "a.png")
    with_ids(first)(maps / "c.png")
    found = {issue.kind: issue for issue in issues_of(tmp_path)}
    assert found.keys() == {"png-extra", "segment-stuff-twice", "category-without-instances"}
    assert found.keys() <= WARNINGS.keys()
    assert found["png-extra"].file == str(maps / "c.png")
    assert found["segment-stuff-twice"].where == "image id 5, segment id 8"
    assert "earlier segment of sky" in found["segment-stuff-twice"].message
    assert found["category-without-instances"].where == "category id 30"
    source = folder.open("train")
    assert (source[0].semantic[0, :4] == 3).all()
    ignoring = CocoFolder(folder.path, ignore_issues=("segment-stuff-twice",)).open("train")
    assert ignoring.image_ids == [3]


def test_an_area_and_a_box_may_be_left_out(tmp_path):
    data = content()
    for entry in data["annotations"][1]["segments_info"]:
        del entry["area"], entry["bbox"]
    assert len(write(tmp_path, data).open("train")[0].boxes) == 3


def test_images_with_issues_are_left_out_by_id(tmp_path, caplog):
    data = segment_of("category_id", 99)
    write(tmp_path, data)
    assert CocoFolder(str(tmp_path), ignore_image_ids=(5,)).open("train").image_ids == [3]
    with caplog.at_level(logging.WARNING):
        CocoFolder(str(tmp_path), ignore_issues=("segment-category",)).open("train")
    assert "panoptic_train.json: skipped 1 images: 1 segment-category" in caplog.text


def test_real_data_have_no_issue_but_things_without_instances(shared):
    root = shared / "data" / "coco_panoptic"
    for split in ("train2017", "val2017"):
        file = root / "annotations" / f"panoptic_{split}.json"
        issues = check_panoptic_file(file, root / split).issues
        assert [issue.kind for issue in issues] == ["category-without-instances"]
        things = sum(c["isthing"] for c in json.loads(file.read_text())["categories"])
        assert f"of {things} classes of things" in issues[0].message


def test_the_check_lists_the_issues_of_all_maps_by_file_and_id(tmp_path, capsys):
    write(tmp_path, content())
    maps = tmp_path / "annotations" / "panoptic_train"
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    for name in ("a.png", "b.png"):
        with_ids(np.full(SIZE, 90_000))(maps / name)
    out = tmp_path / "issues.txt"
    assert main(["data", "check", str(tmp_path), "--panoptic", "--out", str(out)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"errors segment-unknown: 2 in {maps} " in printed
    assert "a.png: image id 5, segment id 90000 (segments_info): 600 pixels have" in printed
    assert "b.png: image id 3, segment id 7 (id): the segment has no pixel" in printed
    assert "errors: 8" in printed
    listed = [json.loads(line) for line in out.read_text().splitlines()]
    assert {issue["file"] for issue in listed} == {str(maps / "a.png"), str(maps / "b.png")}


def test_the_check_counts_stuff_and_void(tmp_path, capsys):
    write(tmp_path, content())
    assert main(["data", "check", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    void = (pixels() == 0).sum() / (2 * pixels().size)
    assert ["pixels", "in", "no", "segment", "(void)", f"{void:.1%}"] in lines
    sky = ((pixels() == 7).sum() + pixels().size) / (2 * pixels().size)
    assert ["sky", "2", f"{sky:.1%}"] in lines
    assert ["grass", "1"] in [line[:2] for line in lines]
    assert ["person", "1", "0", "0"] in lines
    assert ["crowds", "1"] in lines
    assert ["--model.num-classes", "2"] in lines
    assert ["--model.num-stuff-classes", "2", "(of", "a", "panoptic", "model)"] in lines
