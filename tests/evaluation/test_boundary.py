"""Boundary AP against cases computed by hand and a loop over all pixels and pairs."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxseg.data import Shapes
from jaxseg.evaluation import evaluate
from jaxseg.evaluation.boundary import boundaries
from jaxseg.evaluation.coco import METRIC_NAMES
from tests.oracles.boundary import boundary as slow_boundary
from tests.oracles.boundary import iou as slow_iou


def encode(mask):
    rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def boundary(mask):
    rle = mask_api.encode(np.asfortranarray(mask, np.uint8))
    return mask_api.decode(boundaries([rle])[0]).astype(bool)


def square(x, y, side, size=(100, 100)):
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def metrics_of(objects, detections, crowds=()):
    """Evaluate masks of one image: `(mask, score)` for detections."""
    height, width = objects[0].shape
    truth = {
        "images": [{"id": 1, "height": height, "width": width}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "segmentation": encode(mask)}
            | {"area": int(mask.sum()), "iscrowd": int(n in crowds), "bbox": [0, 0, 1, 1]}
            for n, mask in enumerate(objects)
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "segmentation": encode(mask), "score": score}
        for mask, score in detections
    ]
    return evaluate(truth, results)


def test_the_boundary_is_as_wide_as_2_percent_of_the_diagonal():
    """In 100x100 pixels 2.8, rounded to 3; in 3x4 pixels at least 1; in 45x60 pixels 1.5, so 2."""
    found = boundary(square(10, 20, 20))
    np.testing.assert_array_equal(found, square(10, 20, 20) & ~square(13, 23, 14))
    np.testing.assert_array_equal(boundary(np.ones((3, 4), bool))[1:-1], [[1, 0, 0, 1]])
    whole = np.ones((45, 60), bool)
    whole[2:-2, 2:-2] = False
    np.testing.assert_array_equal(boundary(np.ones((45, 60), bool)), whole)


def test_small_masks_and_empty_ones_are_their_own_boundaries():
    for mask in (square(50, 50, 6), square(0, 0, 1), np.zeros((100, 100), bool)):
        np.testing.assert_array_equal(boundary(mask), mask)
    assert boundaries([]) == []


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_boundaries_agree_with_the_loop(mask):
    mask = mask | np.roll(mask, 1, axis=0)  # fewer masks that are nothing but boundary
    np.testing.assert_array_equal(boundary(mask), slow_boundary(mask))


def test_wide_boundaries_agree_with_the_loop():
    """A disc with a hole and a square at the image's corner, with a distance of 5."""
    y, x = np.mgrid[:150, :200]
    radius = np.hypot(y - 70, x - 90)
    mask = (radius < 50) & (radius > 12) | square(180, 130, 20, (150, 200))
    np.testing.assert_array_equal(boundary(mask), slow_boundary(mask))


def test_a_square_that_is_one_pixel_off():
    """Masks: 380 of 420 pixels, above 9 thresholds. Boundaries: of 204 each, 170 are common.

    The outlines share 19x20 pixels, of which the insides (14x14 each) take 15x14: 380 - 210. The
    IoU is 170 / (2 * 204 - 170) = 0.714, above 5 thresholds.
    """
    metrics = metrics_of([square(10, 10, 20)], [(square(11, 10, 20), 0.5)])
    assert metrics["segm/AP"] == pytest.approx(0.9)
    assert metrics["boundary/AP"] == pytest.approx(0.5)
    assert metrics["boundary/AP75"] == 0
    for name in ("boundary/AP50", "segm/AP50", "segm/AP75"):
        assert metrics[name] == pytest.approx(1)


def test_a_perfect_mask_and_a_missing_one():
    metrics = metrics_of([square(10, 10, 30), square(60, 60, 30)], [(square(10, 10, 30), 0.5)])
    assert metrics["boundary/AP"] == metrics["segm/AP"] == pytest.approx(51 / 101)


def test_a_filled_outline_is_no_match_for_its_ring():
    """The boundaries are equal: the masks decide, since the lower IoU counts."""
    ring = square(20, 20, 40) & ~square(23, 23, 34)
    metrics = metrics_of([ring], [(square(20, 20, 40), 0.5)])
    assert metrics["boundary/AP50"] == metrics["segm/AP50"] == 0


def test_a_crowd_is_matched_by_its_mask_alone():
    """A detection inside a crowd is ignored; its boundary has nothing of the crowd's."""
    crowd, inside, thing = square(30, 30, 60), square(50, 50, 20), square(2, 2, 20)
    metrics = metrics_of([thing, crowd], [(inside, 0.9), (thing, 0.5)], crowds=[1])
    assert metrics["boundary/AP"] == metrics["segm/AP"] == pytest.approx(1)


REFERENCE = (
    0.22639400050237551, 0.3775010774391817, 0.22557984624218536,
    0.3873740315997837, 0.27236740312792934, 0.07554378414806896,
    0.18722550309388875, 0.31265229701106306, 0.3140431150818811,
    0.4694498622754236, 0.34054347826086956, 0.10387037037037035,
)  # fmt: skip
"""What the authors' code (github.com/bowenc0221/boundary-iou-api) computes for COCO's example of
results, 100 images of val2014."""


def test_the_metrics_of_cocos_example_are_those_of_the_authors(shared):
    folder = shared / "goldens" / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    metrics = evaluate(truth, results)
    assert tuple(metrics[f"boundary/{name}"] for name in METRIC_NAMES) == REFERENCE


class SlowBoundaryEval(COCOeval):
    """Computes every pair of a category from whole masks."""

    def computeIoU(self, image_id, category_id):
        objects, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        ious = super().computeIoU(image_id, category_id)
        found = sorted(found, key=lambda d: -d["score"])[:100]
        for d, detection in enumerate(found if len(objects) else []):
            for o, thing in enumerate(objects):
                if not thing["iscrowd"]:
                    pair = [mask_api.decode(x["segmentation"]) for x in (detection, thing)]
                    ious[d, o] = min(ious[d, o], slow_iou(*map(slow_boundary, pair)))
        return ious


def test_all_metrics_are_those_of_every_pair_compared():
    """Scenes whose objects are found shifted, twice, as another class, or not; and crowds."""
    source = Shapes(size=48, val_images=6).open("val")
    rng, truth, results = np.random.default_rng(0), source.ground_truth(), []
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"], annotation["iscrowd"] = number, int(number % 7 == 0)
        mask = mask_api.decode(annotation["segmentation"])
        for _ in range(rng.integers(0, 4)):
            category = annotation["category_id"] if rng.random() < 0.8 else 1
            shifted = np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1))
            results.append(
                {"image_id": annotation["image_id"], "category_id": category}
                | {"segmentation": encode(shifted), "score": float(rng.random())}
            )
    metrics = evaluate(truth, results)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        expected = SlowBoundaryEval(coco, coco.loadRes(results), "segm")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    found = [metrics[f"boundary/{name}"] for name in METRIC_NAMES]
    assert [-1 if value is None else value for value in found] == expected.stats.tolist()
    assert 0 < metrics["boundary/AP"] < metrics["segm/AP"]
