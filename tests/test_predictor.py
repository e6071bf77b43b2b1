"""Predictions in threads while devices compute: order, errors, memory, and an early end."""

import threading
import time

import numpy as np
import pytest

from jaxseg.evaluation import coco_results, to_predictions
from jaxseg.predictor import BATCHES_IN_FLIGHT, overlap
from jaxseg.training.preemption import Preempted
from jaxseg.types import Detections, EvalBatch, MaskFrame


def batch_of(*image_ids, valid=2):
    """A batch of two images of one device, and its detections as a device returns them."""
    rng = np.random.default_rng(image_ids[0])
    size = np.asarray([[32, 32], [20, 30]])
    batch = EvalBatch(
        np.zeros((2, 32, 32, 3), np.uint8),
        size,
        2 * size,
        np.asarray(image_ids),
        np.arange(2) < valid,
    )
    masks = rng.random((1, 2, 3, 8, 8)).astype(np.float32)
    detections = Detections(
        boxes=np.tile(np.asarray([2, 3, 16, 12], np.float32), (1, 2, 3, 1)),
        scores=rng.random((1, 2, 3)).astype(np.float32),
        labels=np.zeros((1, 2, 3), np.int32),
        valid=np.ones((1, 2, 3), bool),
        masks=masks,
        mask_frame=MaskFrame.GRID_SAMPLE,
    )
    return detections, batch


def on_one_device(detections):
    return Detections(*(x[0] if isinstance(x, np.ndarray) else x for x in detections))


BATCHES = [batch_of(1, 2), batch_of(7, 3), batch_of(5, 0, valid=1)]


def test_predictions_come_in_order_and_are_those_of_each_batch_alone():
    found = list(overlap(BATCHES))
    assert [prediction.image_id for prediction in found] == [1, 2, 7, 3, 5]
    expected = [p for d, batch in BATCHES for p in to_predictions(on_one_device(d), batch)]
    assert coco_results(found, [1]) == coco_results(expected, [1])
    assert list(overlap([])) == []


def test_few_batches_are_in_flight():
    taken = []

    def batches():
        for number in range(10):
            taken.append(number)
            yield batch_of(2 * number, 2 * number + 1)

    for done, _ in enumerate(overlap(batches())):
        assert len(taken) <= done // 2 + BATCHES_IN_FLIGHT


def test_an_error_names_its_image_and_comes_after_the_predictions_before_it():
    detections, batch = batch_of(8, 9)
    predictions = overlap([BATCHES[0], (detections._replace(mask_frame=None), batch), BATCHES[1]])
    assert [next(predictions).image_id for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError, match=r"set Detections\.mask_frame") as raised:
        next(predictions)
    assert raised.value.__notes__ == ["(image id 8)"]


def test_what_was_predicted_before_an_unreadable_image_is_not_lost():
    def batches():
        yield BATCHES[0]
        raise OSError("7.png is broken")

    predictions = overlap(batches())
    assert [next(predictions).image_id for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match=r"7\.png is broken"):
        next(predictions)


class Slow:
    """An array that a device has not computed yet."""

    shape = (1, 2, 3)

    def __init__(self):
        self.computed = threading.Event()

    def __array__(self, dtype=None, copy=None):
        self.computed.wait()
        return np.zeros(self.shape, np.float32)


def test_a_notice_to_stop_waits_for_no_device():
    slow = Slow()
    detections, batch = batch_of(1, 2)

    def batches():
        yield detections._replace(scores=slow), batch
        raise Preempted("stopped by SIGTERM")

    started = time.monotonic()
    with pytest.raises(Preempted):
        list(overlap(batches()))
    assert time.monotonic() - started < 5
    slow.computed.set()
