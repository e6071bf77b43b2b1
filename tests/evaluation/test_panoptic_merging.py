import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.evaluation import to_predictions
from jaxseg.evaluation.panoptic_merging import best_stuff, merge_heuristically
from jaxseg.types import (
    Detections,
    EvalBatch,
    HeuristicMerging,
    MaskFrame,
    PanopticMerging,
)

KEEP_ALL = HeuristicMerging(score_threshold=0.0, min_stuff_area=0)


def rle(mask):
    return mask_api.encode(np.asfortranarray(mask, np.uint8))


def merge_rows(rows, stuff, merging=KEEP_ALL, scores=None):
    """Merge masks and stuff of images of one row; return the ids and the segments."""
    masks = [np.asarray([row]) for row in rows]
    scores = np.linspace(0.9, 0.5, len(rows)) if scores is None else np.asarray(scores)
    ids, segments = merge_heuristically(
        scores, np.arange(len(rows)), [rle(mask) for mask in masks], np.asarray([stuff]), merging
    )
    return ids[0].tolist(), [(s.id, s.label) for s in segments]


def test_instances_are_placed_best_first_and_stuff_where_none_is():
    rows, stuff = [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]], [7, 7, 7, 7, 7, 8]
    assert merge_rows(rows, stuff) == ([1, 1, 1, 2, 2, 3], [(1, 0), (2, 1), (3, 8)])
    ids, segments = merge_rows(rows, stuff, scores=[0.5, 0.9])
    assert ids == [2, 2, 1, 1, 1, 3]
    assert segments == [(1, 1), (2, 0), (3, 8)]


def test_an_instance_with_too_much_covered_is_left_out():
    rows, stuff = [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], [-1] * 5
    assert merge_rows(rows, stuff)[0] == [1, 1, 2, 0, 0]  # half of the second, not of the third
    assert merge_rows(rows, stuff, HeuristicMerging(0.0, 0.3, 0))[0] == [1, 1, 0, 0, 0]
    assert merge_rows(rows, stuff, HeuristicMerging(0.0, 0.7, 0))[0] == [1, 1, 2, 3, 0]


def test_what_would_have_no_pixels_is_no_segment():
    rows = [[1, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert merge_rows(rows, [7, 7, -1], HeuristicMerging(0.0, 1.0, 0)) == ([1, 1, 0], [(1, 0)])


def test_a_low_score_and_a_small_area_are_left_out():
    rows, stuff = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], [7, 7, 7, 8, 8]
    merging = HeuristicMerging(score_threshold=0.8, min_stuff_area=2)
    scores = np.asarray([0.8, 0.79])
    ids, segments = merge_rows(rows, stuff, merging, scores)
    assert (ids, segments) == ([1, 2, 2, 3, 3], [(1, 0), (2, 7), (3, 8)])
    # What an instance covers does not count as stuff's area.
    assert merge_rows(rows, [7, 7, 7, 8, 7], merging, scores)[0] == [1, 2, 2, 0, 2]


def test_without_instances_there_is_stuff_alone():
    assert merge_rows([], [7, -1, 7]) == ([1, 0, 1], [(1, 7)])


def test_segments_of_instances_have_their_scores():
    _, segments = merge_heuristically(
        np.asarray([0.75]), np.asarray([2]), [rle([[1, 0]])], np.asarray([[5, 5]]), KEEP_ALL
    )
    assert segments == [Segment(1, 2, score=0.75), Segment(2, 5)]


def to_mmdet(panoptic, num_classes, num_things):
    """Return the map in MMDetection's ids: label + 1000 * instance number, `num_classes` void."""
    result = np.full(panoptic.ids.shape, num_classes)
    for segment in panoptic.segments:
        instance = 1000 * segment.id if segment.label < num_things else 0
        result[panoptic.ids == segment.id] = segment.label + instance
    return result


def unpack(golden, meta, name):
    if name not in meta["packed"]:
        return golden[name]
    shape = meta["packed"][name]
    return np.unpackbits(golden[name])[: int(np.prod(shape))].reshape(shape)


@pytest.fixture(scope="module")
def goldens(shared):
    def load(name):
        with np.load(shared / "goldens" / "models" / f"{name}.npz") as file:
            return json.loads(str(file["meta"])), {key: file[key] for key in file.files}

    return load


def test_logits_may_have_any_dtype():
    logits = np.random.default_rng(0).normal(size=(8, 8, 3)).round(1)
    sizes = {"bucket": (32, 32), "image_size": (30, 28), "original_size": (40, 50)}
    expected = best_stuff(logits.astype(np.float32), 5, **sizes)
    assert set(np.unique(expected)) == {-1, 5, 6}
    for dtype in (np.float64, np.float16):
        found = best_stuff(logits.astype(dtype), 5, **sizes)
        assert (found == expected).mean() > 0.99


def test_heuristic_fusion_is_that_of_mmdetection(goldens):
    meta, golden = goldens("ops_later")
    for case, test in enumerate(meta["cases"]["hfuse"]["cases"]):
        prefix = f"hfuse{case}__"
        masks, logits = unpack(golden, meta, prefix + "masks"), golden[prefix + "seg"]
        size = logits.shape[1:]
        stuff = best_stuff(
            logits.transpose(1, 2, 0), 3, bucket=size, image_size=size, original_size=size
        )
        found = merge_heuristically(
            golden[prefix + "scores"],
            golden[prefix + "labels"],
            [rle(mask) for mask in masks],
            stuff,
            HeuristicMerging(0.0, test["mask_overlap"], test["stuff_area_limit"]),
        )
        things = [s.label for s in found.segments if s.score is not None]
        assert things == golden[prefix + "idlabels"].tolist()
        np.testing.assert_array_equal(to_mmdet(found, 6, 3), golden[prefix + "panoptic"][0])


@pytest.mark.parametrize("i", [0, 1])
def test_a_panoptic_fpns_maps_are_those_of_mmdetection(goldens, i):
    meta, golden = goldens("panoptic_fpn")
    size, original = tuple(meta["sizes"][i]), tuple(meta["metas"][i]["ori_shape"])
    stuff = best_stuff(
        golden["eval__seg_logits"][i].transpose(1, 2, 0),
        5,
        bucket=meta["batch"],
        image_size=size,
        original_size=original,
    )
    expected = golden[f"eval__seg_argmax{i}"].astype(int)
    np.testing.assert_array_equal(np.where(stuff < 0, 4, stuff - 5), expected)
    test = meta["config"]["test_cfg"]["panoptic"]
    found = merge_heuristically(
        golden[f"eval__ins{i}_scores"],
        golden[f"eval__ins{i}_labels"],
        [rle(mask) for mask in unpack(golden, meta, f"eval__ins{i}_masks")],
        stuff,
        HeuristicMerging(0.0, test["mask_overlap"], test["stuff_area_limit"]),
    )
    np.testing.assert_array_equal(to_mmdet(found, 9, 5), golden[f"eval__panoptic{i}"][0])


def detections(**changes):
    """An image of 30x20 in a bucket of 32x32, with one instance and two stuff classes."""
    semantic = np.zeros((1, 8, 8, 3), np.float32)
    semantic[0, :, :2, 0] = semantic[0, :, 4:, 1] = semantic[0, :, 2:4, 2] = 1
    found = Detections(
        boxes=np.asarray([[[8, 4, 16, 12]]], np.float32),
        scores=np.asarray([[0.9]], np.float32),
        labels=np.asarray([[2]], np.int32),
        valid=np.asarray([[True]]),
        masks=np.ones((1, 1, 4, 4), np.float32),
        mask_frame=MaskFrame.GRID_SAMPLE,
        semantic=semantic,
        panoptic_merging=PanopticMerging(3, HeuristicMerging(min_stuff_area=10)),
    )
    return found._replace(**changes)


BATCH = EvalBatch(
    np.zeros((1, 32, 32, 3), np.uint8), *map(np.asarray, ([[30, 20]], [[60, 40]], [5], [True]))
)


def test_a_panoptic_models_predictions_have_a_map_of_the_original_image():
    (prediction,) = to_predictions(detections(), BATCH)
    ids, segments = prediction.panoptic
    assert ids.shape == (60, 40)
    assert segments == [Segment(1, 2, score=pytest.approx(0.9)), Segment(2, 3), Segment(3, 4)]
    assert (ids[9:23, 17:31] == 1).all()
    assert (ids[:8, 17:31] == 0).all()  # most likely a thing, but no instance is there
    assert (ids[:, :15] == 2).all()
    assert (ids[:, 33:] == 3).all()


def test_other_models_predictions_have_no_map():
    (prediction,) = to_predictions(detections(panoptic_merging=None), BATCH)
    assert prediction.panoptic is None


def test_a_panoptic_model_without_masks_or_logits_is_an_error():
    for missing in ("masks", "semantic"):
        with pytest.raises(ValueError, match=r"set Detections.masks and Detections.semantic"):
            to_predictions(detections(**{missing: None}), BATCH)


def test_a_selection_of_instances_keeps_the_map():
    (prediction,) = to_predictions(detections(), BATCH)
    assert isinstance(prediction.panoptic, PanopticMap)
    assert prediction.select(np.asarray([], int)).panoptic is prediction.panoptic
