import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from jaxseg.data import CocoFolder
from tests.data import fuzz, fuzz_panoptic
from tests.data.coco.small_folder import SIZE, content, write


def test_mutated_files_are_read_or_refused_with_their_name():
    outcomes = fuzz.run(100, seed=7)
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 40


def test_mutated_panoptic_annotations_and_maps_are_read_or_refused_with_their_name():
    outcomes = fuzz_panoptic.run(100, seed=7)
    assert outcomes["read"] > 20
    assert outcomes["refused"] > 20


def test_mutated_images_are_read_or_refused_with_their_name(tmp_path):
    outcomes = fuzz.run_images(30, tmp_path, seed=7)
    assert outcomes["read"] > 50
    assert outcomes["refused"] > 50


def test_valid_images_of_all_encodings_are_read(tmp_path):
    for name, data in fuzz.encodings(np.random.default_rng(0)).items():
        (tmp_path / name).write_bytes(data)
        assert fuzz.read_image(tmp_path / name).shape in ((9, 13, 3), (13, 9, 3))


NUMBERS = st.one_of(
    st.integers(-5, 40),
    st.floats(-50, 80),
    st.sampled_from([float("nan"), float("inf"), 1e30, True, None, "1", 1 << 70]),
)
SEGMENTATIONS = st.one_of(
    st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
    st.lists(st.lists(st.floats(0, 20), min_size=6, max_size=12), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([SIZE, SIZE[::-1], [], None]),
            "counts": st.one_of(
                st.text(st.characters(min_codepoint=46, max_codepoint=114), max_size=12),
                st.lists(NUMBERS, max_size=6),
                st.lists(st.integers(0, 599), max_size=6).map(
                    lambda cuts: np.diff([0, *sorted(cuts), 600]).tolist()
                ),
            ),
        }
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(segmentation=SEGMENTATIONS)
def test_any_segmentation_is_refused_or_read_as_pycocotools_reads_it(tmp_path, segmentation):
    data = content()
    data["annotations"] = [data["annotations"][0] | {"segmentation": segmentation}]
    if not (tmp_path / "images").exists():
        write(tmp_path, data)
    (tmp_path / "train.json").write_text(json.dumps(data))
    source = CocoFolder(str(tmp_path), ignore_issues=tuple(fuzz.IGNORABLE)).open("train")
    if not source.ground_truth()["annotations"]:
        with pytest.raises(ValueError, match="annotation id 1"):
            CocoFolder(str(tmp_path)).open("train")
        return
    np.testing.assert_array_equal(
        mask_api.decode(source[0].rles[0]), pycocotools_mask(segmentation)
    )


def pycocotools_mask(segmentation):
    if isinstance(segmentation, list):
        return mask_api.decode(mask_api.merge(mask_api.frPyObjects(segmentation, *SIZE)))
    counts = segmentation["counts"]
    if isinstance(counts, str):
        return mask_api.decode({"size": SIZE, "counts": counts.encode()})
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(SIZE, order="F").astype(np.uint8)
