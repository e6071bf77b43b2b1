import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg import visualize
from jaxseg.data import Shapes
from jaxseg.evaluation import (
    Prediction,
    coco_results,
    evaluate,
    format_table,
    to_predictions,
    write_metrics,
)
from jaxseg.evaluation.coco import FIGURES
from jaxseg.evaluation.predictions import box_mask_rle, whole_pixel_mask_rle
from jaxseg.types import Detections, MaskFrame
from tests.goldens import load_golden

SOURCE = Shapes(size=64, val_images=12).open("val")
IDS = [c.id for c in SOURCE.categories]


def perfect_predictions():
    examples = [SOURCE[i] for i in range(len(SOURCE))]
    return [
        Prediction(e.image_id, e.boxes, np.ones(len(e.boxes), np.float32), e.labels, list(e.rles))
        for e in examples
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_published_figures_to_all_digits(shared, kind):
    folder = shared / "goldens" / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    expected = json.loads((folder / "expected_stats_pycocotools.json").read_text())[kind]
    names = [c["id"] for c in truth["categories"]]
    metrics = evaluate(truth, through_the_writer(results, truth, names, kind))
    assert [metrics[f"{kind}/{figure}"] for figure in FIGURES] == expected


def through_the_writer(results, truth, category_ids, kind):
    """The published results as predictions and written again by jaxseg."""
    size = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    written = []
    for result in results:
        height, width = size[result["image_id"]]
        box = np.asarray([result.get("bbox", [0, 0, 1, 1])], np.float64)
        box[:, 2:] += box[:, :2]
        rle = {"size": [height, width], "counts": b""}
        if kind == "segm":
            rle = dict(result["segmentation"], counts=result["segmentation"]["counts"].encode())
        label = np.asarray([category_ids.index(result["category_id"])])
        prediction = Prediction(
            result["image_id"], box, np.asarray([result["score"]]), label, [rle]
        )
        (one,) = coco_results([prediction], category_ids)
        written.append({k: v for k, v in one.items() if kind == "segm" or k != "segmentation"})
    return json.loads(json.dumps(written))


def test_the_truth_against_itself_is_perfect():
    metrics = evaluate(SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS))
    for kind in ("segm", "bbox"):
        assert metrics[f"{kind}/AP"] == metrics[f"{kind}/AP75"] == 1
        assert metrics[f"{kind}/AP/disc"] == 1
        assert metrics[f"{kind}/APl"] is None  # nothing that large in 64x64


def test_annotations_may_be_numbered_from_0():
    truth = SOURCE.ground_truth()
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number
    results = [{**a, "score": 1.0} for a in truth["annotations"]]
    assert evaluate(truth, results)["segm/AP"] == 1


def test_worse_predictions_are_judged_worse():
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


def test_arguments_are_left_as_they_are():
    truth, results = SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS)
    before = json.dumps([truth, results])
    evaluate(truth, results)
    assert json.dumps([truth, results]) == before


def test_report_and_metrics_file(tmp_path):
    metrics = evaluate(SOURCE.ground_truth(), coco_results(perfect_predictions(), IDS))
    table = format_table(metrics)
    assert "AP50                       1.000   1.000" in table
    assert "APl                            -       -" in table
    assert "disc" in table
    write_metrics(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def slow_paste(mask, box, size):
    """Each pixel's centre looked up in the mask, with zeros around it."""
    cells = mask.shape[0]
    padded = np.pad(mask, 1)
    out = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * cells - 0.5
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * cells - 0.5
            if -1 < y < cells and -1 < x < cells:
                y0, x0 = int(np.floor(y)), int(np.floor(x))
                fy, fx = y - y0, x - x0
                part = padded[y0 + 1 : y0 + 3, x0 + 1 : x0 + 3]
                out[row, column] = np.asarray([1 - fy, fy]) @ part @ np.asarray([1 - fx, fx])
    return out


@pytest.mark.parametrize(
    "box", [(3.2, 4.1, 17.9, 15.3), (-6, -3.5, 9, 30), (0, 0, 24, 20), (10, 10, 11, 11)]
)
def test_pasting_agrees_with_the_loop(box):
    rng = np.random.default_rng(0)
    mask = rng.random((7, 7)).astype(np.float32)
    pasted = mask_api.decode(box_mask_rle(mask, np.asarray(box, np.float32), [20, 24]))
    expected = slow_paste(mask, np.asarray(box, float), (20, 24))
    sure = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal(pasted[sure], (expected >= 0.5)[sure])


def test_boxes_without_area_or_outside_give_empty_masks():
    for box in ((5, 5, 5, 9), (30, 30, 40, 40), (-9, -9, -2, -2)):
        rle = box_mask_rle(np.ones((4, 4), np.float32), np.asarray(box, np.float32), [20, 24])
        assert mask_api.area(rle) == 0


def detections(frame, masks):
    return Detections(
        boxes=np.asarray([[[8, 4, 16, 12], [0, 0, 0, 0]]] * 2, np.float32),
        scores=np.asarray([[0.9, 0.0]] * 2, np.float32),
        labels=np.asarray([[2, 0]] * 2, np.int32),
        masks=np.stack([masks] * 2),
        valid=np.asarray([[True, False]] * 2),
        mask_frame=frame,
    )


@pytest.mark.parametrize("frame", [MaskFrame.GRID_SAMPLE, MaskFrame.IMAGE])
def test_predictions_are_brought_back_to_the_original_image(frame):
    """An image of 60x40 was resized to 30x20 on a canvas of 32x32."""
    if frame is MaskFrame.GRID_SAMPLE:
        masks = np.stack([np.ones((4, 4)), np.zeros((4, 4))]).astype(np.float32)
    else:
        masks = np.zeros((2, 16, 16), np.float32)
        masks[0, 2:6, 4:8] = 1
    (prediction,) = to_predictions(
        detections(frame, masks),
        image_size=np.asarray([[30, 20], [32, 32]]),
        original_size=np.asarray([[60, 40], [32, 32]]),
        image_id=np.asarray([5, 0]),
        valid=np.asarray([True, False]),
        bucket=(32, 32),
    )
    assert prediction.image_id == 5
    np.testing.assert_allclose(prediction.boxes, [[16, 8, 32, 24]])
    assert prediction.labels.tolist() == [2]
    expected = np.zeros((60, 40), np.uint8)
    expected[8:24, 16:32] = 1
    expected[[8, 8, 23, 23], [16, 31, 16, 31]] = 0  # interpolation rounds the corners
    np.testing.assert_array_equal(mask_api.decode(prediction.rles[0]), expected)


def test_drawing(tmp_path):
    example = next(e for e in map(SOURCE.__getitem__, range(12)) if len(e.boxes) > 1)
    names = [c.name for c in SOURCE.categories]
    plain = visualize.draw_instances(
        example.image, example.boxes[:0], example.labels[:0], names, []
    )
    assert plain.shape == (512, 512, 3)  # enlarged to be legible
    drawn = visualize.draw_instances(
        example.image,
        example.boxes,
        example.labels,
        names,
        example.rles,
        np.ones(len(example.rles)),
    )
    inside = np.zeros((64, 64), bool)
    for rle in example.rles:
        inside |= mask_api.decode(rle).astype(bool)
    changed = (plain != drawn).any(2)
    assert changed[inside.repeat(8, 0).repeat(8, 1)].mean() > 0.95
    assert changed.mean() < 0.9
    both = visualize.side_by_side(plain, drawn, ("left", "right"))
    visualize.save_png(tmp_path / "new" / "picture.png", both)
    assert (tmp_path / "new" / "picture.png").stat().st_size > 1000
    assert both.shape[1] == 1024


def test_whole_pixel_masks_are_pasted_as_by_torchvision(shared):
    meta, golden = load_golden(shared, "paste_masks")
    boxes, size = golden["boxes"], list(meta["image"])
    for masks, out in (("masks", "out"), ("masks14", "out14")):
        for mask, box, expected in zip(golden[masks], boxes, golden[out], strict=True):
            pasted = mask_api.decode(whole_pixel_mask_rle(mask[0], box, size)).astype(bool)
            differs = pasted != (expected[0] >= 0.5)
            assert np.abs(expected[0][differs] - 0.5).max(initial=0) < 1e-4


def test_predictions_lay_whole_pixel_masks_over_the_grown_box():
    masks = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    sizes = np.asarray([[32, 32]] * 2)
    found, _ = to_predictions(
        detections(MaskFrame.INTEGER, masks),
        sizes, sizes, np.asarray([1, 2]), np.asarray([True, True]), bucket=(32, 32),
    )  # fmt: skip
    assert found.rles[0] == whole_pixel_mask_rle(masks[0], found.boxes[0], [32, 32])
    assert found.rles[0] != box_mask_rle(masks[0], found.boxes[0], [32, 32])


def test_whole_pixel_masks_outside_the_image_are_empty():
    for box in ([-50, -50, -20, -20], [90, 90, 120, 120]):
        rle = whole_pixel_mask_rle(np.ones((8, 8), np.float32), np.float32(box), [40, 40])
        assert mask_api.area(rle) == 0
