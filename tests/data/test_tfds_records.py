import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data.tfds.builder import label_names
from jaxseg.data.tfds.records import InstanceDecoder, features, to_record

FEATURES = features()
CATEGORIES = [{"id": 7, "name": "a"}, {"id": 3, "name": "b", "supercategory": "c"}]
LABELS = {3: 0, 7: 1}
FEATURES["objects"]["label"].names = label_names(CATEGORIES)

number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
value = st.recursive(
    st.none() | st.booleans() | number | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
int64 = st.integers(-(2**63), 2**63 - 1)
others = st.dictionaries(st.text(min_size=1).map("x{}".format), value, max_size=3)
polygons = st.lists(st.lists(number, min_size=6, max_size=8), min_size=1, max_size=2)
rle = st.fixed_dictionaries({"size": st.lists(st.integers(0, 9)), "counts": st.text()})
annotation = st.fixed_dictionaries(
    {
        "id": int64,
        "category_id": st.sampled_from([3, 7]),
        "bbox": st.lists(number, min_size=4, max_size=4),
        "area": number,
        "iscrowd": st.sampled_from([0, 1]),
        "segmentation": polygons | rle,
    }
)
image = st.fixed_dictionaries(
    {"id": int64, "file_name": st.text(min_size=1), "height": int64, "width": int64}
)


def round_trip(image, data, annotations):
    import tensorflow_datasets as tfds

    record = to_record(image, data, annotations, LABELS)
    raw = FEATURES.serialize_example(record)
    read = FEATURES.deserialize_example_np(raw, decoders={"image": tfds.decode.SkipDecoding()})
    decoder = InstanceDecoder({"categories": CATEGORIES})
    return decoder.image(read), read["image"], decoder.annotations(read)


@settings(max_examples=80, deadline=None)
@given(image, others, st.binary(min_size=1), st.lists(st.tuples(annotation, others), max_size=4))
def test_decoding_a_record_gives_back_its_input(image, more, data, annotations):
    image |= more
    indexed = [
        (1000 - i, {**fields, **more, "image_id": image["id"]})
        for i, (fields, more) in enumerate(annotations)
    ]
    assert round_trip(image, data, indexed) == (image, data, indexed)


def test_an_image_of_lvis_has_no_file_name():
    image = {"id": 1, "height": 2, "width": 3, "coco_url": "http://a/b.jpg", "not_exhaustive": [3]}
    assert round_trip(image, b"image", []) == (image, b"image", [])


VALID = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": [[0] * 6]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"area": None, "iscrowd": 0}, "annotation id 1: area None is not a number"),
        ({"area": "2", "iscrowd": 0}, "annotation id 1: area '2' is not a number"),
        ({"area": 1, "iscrowd": 2}, "annotation id 1: iscrowd 2 is neither 0 nor 1"),
        ({"area": 1, "iscrowd": 0, "id": 2**63}, f"annotation id {2**63} does not fit"),
    ],
)
def test_values_that_do_not_fit_a_record_are_refused(fields, message):
    image = {"id": 5, "file_name": "a.png", "height": 2, "width": 3}
    with pytest.raises(ValueError, match=message):
        to_record(image, b"image", [(0, {**VALID, **fields})], LABELS)
    with pytest.raises(ValueError, match=f"image id {-(2**63) - 1} does not fit into 64 bits"):
        to_record({**image, "id": -(2**63) - 1}, b"image", [], LABELS)


def test_other_readers_of_the_dataset_find_boxes_and_labels():
    indexed = [(0, {**VALID, "area": 0.1, "iscrowd": 1, "bbox": [1 / 3, 2, 3, 4]})]
    image = {"id": 5, "file_name": "a.png", "height": 2, "width": 3}
    raw = FEATURES.serialize_example(to_record(image, b"image", indexed, LABELS))
    import tensorflow_datasets as tfds

    read = FEATURES.deserialize_example_np(raw, decoders={"image": tfds.decode.SkipDecoding()})
    objects = read["objects"]
    assert objects["bbox"][0].dtype == np.float64
    assert objects["bbox"][0].tolist() == [1 / 3, 2, 3, 4]
    assert float(objects["area"][0]) == 0.1
    assert bool(objects["is_crowd"][0])
    assert FEATURES["objects"]["label"].names[objects["label"][0]] == "b"
    assert json.loads(objects["segmentation"][0]) == [[0] * 6]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a"], ["b", "a"]),
        (["a", "a", "a (1)"], ["a (1)", "a (2)", "a (1) (3)"]),
        ([" a\nb", ""], ["a b (1)", "(2)"]),
    ],
)
def test_label_names_are_unique(names, expected):
    categories = [
        {"id": category_id, "name": name} for category_id, name in enumerate(names, start=1)
    ]
    assert label_names(categories[::-1]) == expected
