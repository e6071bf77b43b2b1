import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg.data import Shapes
from jaxseg.evaluation import (
    Prediction,
    coco_results,
    evaluate,
    format_table,
    from_coco_results,
    to_predictions,
    write_metrics,
)
from jaxseg.evaluation.coco import METRIC_NAMES
from jaxseg.evaluation.mask_rles import box_mask_rles
from jaxseg.types import Detections, EvalBatch, MaskFrame

SOURCE = Shapes(size=64, val_images=12).open("val")
IDS = [c.id for c in SOURCE.categories]


def perfect_predictions():
    examples = [SOURCE[i] for i in range(len(SOURCE))]
    return [
        Prediction(e.image_id, e.boxes, np.ones(len(e.boxes), np.float32), e.labels, list(e.rles))
        for e in examples
    ]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_metrics_to_all_digits(shared, iou_type):
    folder = shared / "goldens" / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    expected = json.loads((folder / "expected_stats_pycocotools.json").read_text())[iou_type]
    ids = [c["id"] for c in truth["categories"]]
    metrics = evaluate(truth, rewrite(results, truth, ids, iou_type))
    assert [metrics[f"{iou_type}/{name}"] for name in METRIC_NAMES] == expected


def rewrite(results, truth, category_ids, iou_type):
    """Turn published results into predictions and write these with `coco_results`."""
    size = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    written = []
    for result in results:
        height, width = size[result["image_id"]]
        box = np.asarray([result.get("bbox", [0, 0, 1, 1])], np.float64)
        box[:, 2:] += box[:, :2]
        rles = None
        if iou_type == "segm":
            counts = result["segmentation"]["counts"].encode()
            rles = [{"size": [height, width], "counts": counts}]
        label = np.asarray([category_ids.index(result["category_id"])])
        prediction = Prediction(result["image_id"], box, np.asarray([result["score"]]), label, rles)
        written += coco_results([prediction], category_ids)
    return json.loads(json.dumps(written))


def test_ground_truth_as_predictions_has_ap_1():
    metrics = evaluate(SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS))
    for iou_type in ("segm", "bbox"):
        assert metrics[f"{iou_type}/AP"] == metrics[f"{iou_type}/AP75"] == 1
        assert metrics[f"{iou_type}/AP/disc"] == 1
        assert metrics[f"{iou_type}/APl"] is None  # no object that large in 64x64


def test_a_classes_ap_is_that_of_all_its_objects():
    """More of one class than the 10 detections of COCO's AR10, and some that are not found."""
    boxes = np.asarray([[6.0 * n, 2, 6 * n + 5, 9] for n in range(20)])
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1 + n // 14, "iscrowd": 0, "area": 35.0}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (x1, y1, x2, y2) in enumerate(boxes.tolist())
    ]
    truth = {
        "images": [{"id": 1, "height": 20, "width": 120}],
        "categories": [{"id": 1, "name": "many"}, {"id": 2, "name": "few"}],
        "annotations": annotations,
    }
    fields = ("image_id", "category_id", "bbox")
    results = [{k: a[k] for k in fields} | {"score": 0.5} for a in annotations]
    metrics = evaluate(truth, [r for n, r in enumerate(results) if n not in (3, 16, 17)])
    # COCO's precision is 1 at each of its 101 recalls up to that of the objects found.
    assert metrics["bbox/AP/many"] == pytest.approx((100 * 13 // 14 + 1) / 101)
    assert metrics["bbox/AP/few"] == pytest.approx((100 * 4 // 6 + 1) / 101)


def test_annotation_ids_may_start_at_0():
    truth = SOURCE.ground_truth()
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number
    results = [{**a, "score": 1.0} for a in truth["annotations"]]
    assert evaluate(truth, results)["segm/AP"] == 1


def test_worse_predictions_have_a_lower_ap():
    shifted = [p._replace(boxes=p.boxes + 4) for p in perfect_predictions()]
    metrics = evaluate(SOURCE.ground_truth(), coco_results(shifted, IDS))
    assert metrics["segm/AP"] == 1
    assert 0 < metrics["bbox/AP"] < 0.6
    wrong = [p._replace(labels=(p.labels + 1) % len(IDS)) for p in perfect_predictions()]
    assert evaluate(SOURCE.ground_truth(), coco_results(wrong, IDS))["segm/AP"] < 0.05


def test_no_detections_at_all():
    metrics = evaluate(SOURCE.ground_truth(), [])
    assert metrics["segm/AP"] == metrics["bbox/AR100"] == 0


def test_crowds_are_ignored():
    truth = SOURCE.ground_truth()
    for annotation in truth["annotations"][::2]:
        annotation["iscrowd"] = 1
    metrics = evaluate(truth, coco_results(perfect_predictions(), IDS))
    assert metrics["segm/AP"] == 1


def test_evaluate_does_not_change_its_arguments():
    truth, results = SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS)
    before = json.dumps([truth, results])
    evaluate(truth, results)
    assert json.dumps([truth, results]) == before


def test_report_and_metrics_file(tmp_path):
    metrics = evaluate(SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS))
    table = format_table(metrics)
    assert f"{'AP50':<24}     1.000     1.000     1.000\n" in table
    assert f"{'APl':<24}         -         -         -\n" in table
    assert "disc" in table
    write_metrics(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def detections(masks, frame):
    return Detections(
        boxes=np.asarray([[[8, 4, 16, 12], [0, 0, 0, 0]]] * 2, np.float32),
        scores=np.asarray([[0.9, 0.0]] * 2, np.float32),
        labels=np.asarray([[2, 0]] * 2, np.int32),
        valid=np.asarray([[True, False]] * 2),
        masks=None if masks is None else np.stack([masks] * 2),
        mask_frame=frame,
    )


def eval_batch(image_size, original_size, image_id, valid):
    """A batch of two images in a bucket of 32x32."""
    images = np.zeros((2, 32, 32, 3), np.uint8)
    return EvalBatch(images, *map(np.asarray, (image_size, original_size, image_id, valid)))


HALVED = eval_batch([[30, 20], [32, 32]], [[60, 40], [32, 32]], [5, 0], [True, False])
"""An image of 60x40 that was resized to 30x20, and a filler."""


@pytest.mark.parametrize("frame", [MaskFrame.GRID_SAMPLE, MaskFrame.IMAGE])
def test_predictions_are_in_pixels_of_the_original_image(frame):
    if frame is MaskFrame.GRID_SAMPLE:
        masks = np.stack([np.ones((4, 4)), np.zeros((4, 4))]).astype(np.float32)
    else:
        masks = np.zeros((2, 16, 16), np.float32)
        masks[0, 2:6, 4:8] = 1
    (prediction,) = to_predictions(detections(masks, frame), HALVED)
    assert prediction.image_id == 5
    np.testing.assert_allclose(prediction.boxes, [[16, 8, 32, 24]])
    assert prediction.labels.tolist() == [2]
    expected = np.zeros((60, 40), np.uint8)
    expected[8:24, 16:32] = 1
    expected[[8, 8, 23, 23], [16, 31, 16, 31]] = 0  # interpolation rounds the corners
    np.testing.assert_array_equal(mask_api.decode(prediction.rles[0]), expected)


def test_boxes_are_clipped_at_the_original_image():
    found = detections(None, None)
    beyond = np.asarray([[[-3, -1, 30, 40], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2], np.float32)
    (prediction,) = to_predictions(found._replace(boxes=beyond), HALVED)
    np.testing.assert_array_equal(prediction.boxes, [[0, 0, 40, 60]])


def test_predictions_without_masks_are_evaluated_by_their_boxes():
    (prediction,) = to_predictions(detections(None, None), HALVED)
    assert prediction.rles is None
    np.testing.assert_allclose(prediction.boxes, [[16, 8, 32, 24]])
    assert "segmentation" not in coco_results([prediction], IDS)[0]
    boxes_only = [p._replace(rles=None) for p in perfect_predictions()]
    metrics = evaluate(SOURCE.ground_truth(), coco_results(boxes_only, IDS))
    assert metrics["bbox/AP"] == 1
    assert not any(name.startswith("segm/") for name in metrics)
    assert f"{'  disc':<24}     1.000         -         -\n" in format_table(metrics)


def test_masks_without_a_frame_are_an_error():
    with pytest.raises(ValueError, match=r"set Detections\.mask_frame"):
        to_predictions(detections(np.zeros((2, 4, 4), np.float32), None), HALVED)


def test_selected_instances_keep_their_fields():
    prediction = next(p for p in perfect_predictions() if len(p.boxes) > 1)
    last = prediction.select(np.asarray([len(prediction.boxes) - 1]))
    assert last.image_id == prediction.image_id
    np.testing.assert_array_equal(last.boxes, prediction.boxes[-1:])
    assert last.rles == prediction.rles[-1:]
    assert prediction._replace(rles=None).select(np.asarray([0])).rles is None


def test_predictions_in_the_integer_frame_are_pasted_over_whole_pixels():
    masks = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    batch = eval_batch([[32, 32]] * 2, [[32, 32]] * 2, [1, 2], [True, True])
    found, _ = to_predictions(detections(masks, MaskFrame.INTEGER), batch)
    integer = box_mask_rles(masks[:1], found.boxes, (32, 32), paste="integer")
    assert found.rles == integer
    assert found.rles != box_mask_rles(masks[:1], found.boxes, (32, 32), paste="grid_sample")


def test_coco_results_are_read_back_as_they_were_written():
    for prediction in perfect_predictions():
        results = coco_results([prediction], IDS)
        found = from_coco_results(
            prediction.image_id, results, {i: label for label, i in enumerate(IDS)}
        )
        np.testing.assert_allclose(found.boxes, prediction.boxes, rtol=1e-6)
        np.testing.assert_array_equal(found.labels, prediction.labels)
        np.testing.assert_allclose(found.scores, prediction.scores)
        assert found.rles == prediction.rles


def test_categories_of_one_name_have_a_metric_each():
    truth = SOURCE.ground_truth()
    expected = evaluate(truth, coco_results(perfect_predictions(), IDS))
    first, second, *others = truth["categories"]
    renamed = {**truth, "categories": [{**first, "name": second["name"]}, second, *others]}
    metrics = evaluate(renamed, coco_results(perfect_predictions(), IDS))
    assert len(metrics) == len(expected)
    for category in (first, second):
        key = f"segm/AP/{second['name']} (id {category['id']})"
        assert metrics[key] == expected[f"segm/AP/{category['name']}"]
        assert key.removeprefix("segm/AP/") in format_table(metrics)
