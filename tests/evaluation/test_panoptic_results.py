import json

import cv2
import numpy as np
import pytest

from jaxseg.data import Category
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.evaluation.panoptic_results import (
    MAX_ID,
    decode_ids,
    encode_ids,
    from_panoptic_result,
    panoptic_result,
    read_panoptic_results,
    write_panoptic_results,
)

CATEGORIES = [Category(17, "cat"), Category(187, "sky")]
LARGE_ID = 3 + 256 * 2 + 65536
MAP = PanopticMap(
    np.asarray([[0, 0, 5, 5], [LARGE_ID] * 3 + [5]], np.int32),
    [Segment(5, 0, score=0.25), Segment(LARGE_ID, 1), Segment(7, 0, iscrowd=True)],
)


def result():
    ids = MAP.ids.copy()
    ids[0, 0] = 7
    return panoptic_result(42, MAP._replace(ids=ids), [17, 187])


def test_a_result_has_cocos_fields():
    first, second, third = result()["segments_info"]
    assert first == {"id": 5, "category_id": 17, "area": 3, "bbox": [2, 0, 2, 2]} | {
        "iscrowd": 0,
        "score": 0.25,
    }
    assert second == {"id": LARGE_ID, "category_id": 187, "area": 3, "iscrowd": 0} | {
        "bbox": [0, 1, 3, 1]
    }
    assert third["iscrowd"] == 1


def test_the_png_holds_ids_as_red_green_and_blue():
    bgr = cv2.imdecode(np.frombuffer(encode_ids(MAP.ids), np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgr[1, 0].tolist() == [1, 2, 3]


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    written = result()
    write_panoptic_results([written], CATEGORIES, 1, tmp_path / "panoptic.json")
    assert (tmp_path / "panoptic" / "42.png").is_file()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["categories"] == [
        {"id": 17, "name": "cat", "isthing": 1},
        {"id": 187, "name": "sky", "isthing": 0},
    ]
    assert "png" not in content["annotations"][0]
    (read,) = read_panoptic_results(tmp_path / "panoptic.json")
    assert read == written
    panoptic = from_panoptic_result(read, {17: 0, 187: 1})
    assert panoptic.segments == MAP.segments
    assert panoptic.ids[0, 0] == 7
    np.testing.assert_array_equal(panoptic.ids[1], MAP.ids[1])


def test_ids_up_to_the_largest_are_kept():
    ids = np.asarray([[0, 1, 255, 256, 65535, 65536, MAX_ID]], np.int32)
    np.testing.assert_array_equal(decode_ids(encode_ids(ids)), ids)


def test_ids_that_do_not_fit_and_other_pngs_are_refused():
    for wrong in (MAX_ID + 1, -1):
        with pytest.raises(ValueError, match=f"segment ids are from .*{wrong}"):
            encode_ids(np.asarray([[0, wrong]]))
    for image in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.uint16)):
        with pytest.raises(ValueError, match="not a PNG of 8-bit RGB"):
            decode_ids(cv2.imencode(".png", image)[1].tobytes())
    for data in (b"no picture", b""):
        with pytest.raises(ValueError, match="not a PNG"):
            decode_ids(data)
