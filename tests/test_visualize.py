"""Pictures of instances: which object a prediction finds, and where labels go."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxseg import visualize
from jaxseg.data import Example, ImageFiles, Shapes
from jaxseg.evaluation import Prediction
from jaxseg.visualize import match_instances, place_labels
from jaxseg.visualize.draw import GREY, RED, _style, instance_color

SOURCE = Shapes(size=64, train_images=12, val_images=1).open("train")


def test_instances_are_drawn_over_an_enlarged_image(tmp_path):
    example = next(e for e in map(SOURCE.__getitem__, range(12)) if len(e.boxes) > 1)
    names = [c.name for c in SOURCE.categories]
    plain = visualize.draw_instances(
        example.image, example.boxes[:0], example.labels[:0], names, []
    )
    assert plain.shape == (768, 768, 3)  # enlarged to be legible
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
    assert changed[inside.repeat(12, 0).repeat(12, 1)].mean() > 0.95
    assert changed.mean() < 0.9
    boxes_only = visualize.draw_instances(
        example.image, example.boxes, example.labels, names, None, np.ones(len(example.rles))
    )
    outlined = (plain != boxes_only).any(2)
    assert 0 < outlined.mean() < changed.mean()
    both = visualize.side_by_side(plain, drawn, ("left", "right"))
    visualize.save_picture(tmp_path / "new" / "picture.png", both)
    assert (tmp_path / "new" / "picture.png").stat().st_size > 1000
    assert both.shape[1] == 1536


SIZE = (100, 100)


def square(x, y, side=20):
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    return mask_api.encode(mask)


def boxes_of(rles):
    boxes = np.asarray(mask_api.toBbox(rles), np.float32).reshape(-1, 4) if rles else []
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def example(rles, labels=None, iscrowd=None):
    count = len(rles)
    return Example(
        np.zeros((*SIZE, 3), np.uint8),
        1,
        boxes_of(rles),
        np.asarray(labels or [0] * count, np.int32),
        rles,
        np.asarray(iscrowd or [False] * count, bool),
    )


def prediction(rles, scores, labels=None):
    labels = np.asarray(labels or [0] * len(rles), int)
    return Prediction(1, boxes_of(rles), np.asarray(scores, np.float32), labels, rles)


def test_each_object_is_found_once_by_the_best_prediction():
    truth = example([square(0, 0), square(50, 50)])
    found = prediction(
        [square(51, 50), square(50, 50), square(2, 0), square(0, 70)], [0.9, 0.8, 0.7, 0.6]
    )
    assert match_instances(truth, found).tolist() == [1, -1, 0, -1]
    boxes_only = found._replace(rles=None)
    assert match_instances(truth, boxes_only).tolist() == [1, -1, 0, -1]


def test_predictions_need_not_be_sorted():
    truth = example([square(0, 0)])
    found = prediction([square(0, 0), square(0, 0)], [0.6, 0.9])
    assert match_instances(truth, found).tolist() == [-1, 0]


def test_an_object_of_another_class_is_not_found():
    truth = example([square(0, 0)], labels=[1])
    assert match_instances(truth, prediction([square(0, 0)], [0.9])).tolist() == [-1]


def test_half_of_an_object_is_too_little():
    truth = example([square(0, 0)])
    assert match_instances(truth, prediction([square(8, 0)], [0.9])).tolist() == [-1]
    assert match_instances(truth, prediction([square(6, 0)], [0.9])).tolist() == [0]


def test_any_number_of_predictions_may_be_on_a_crowd():
    truth = example([square(0, 0, 60), square(10, 10)], iscrowd=[True, False])
    found = prediction([square(10, 10), square(11, 10), square(40, 40)], [0.9, 0.8, 0.7])
    assert match_instances(truth, found).tolist() == [1, 0, 0]


def test_nothing_matches_nothing():
    assert match_instances(example([]), prediction([square(0, 0)], [0.9])).tolist() == [-1]
    assert match_instances(example([square(0, 0)]), prediction([], [])).tolist() == []


class OneImage(ImageFiles):
    def __init__(self, truth):
        super().__init__([truth.image])
        self._truth = truth

    def __getitem__(self, index):
        return self._truth


def test_a_comparison_uses_one_color_for_an_object_and_marks_the_others(monkeypatch):
    truth = example([square(0, 0), square(50, 50), square(0, 60, 30)], iscrowd=[False, False, True])
    found = prediction(
        [square(0, 70), square(50, 51), square(75, 0), square(20, 75)], [0.9, 0.8, 0.7, 0.1]
    )
    drawn, titles = [], []

    def draw(image, *arguments, colors, marks):
        drawn.append((colors, marks))
        return image

    def join(left, right, both):
        titles.extend(both)
        return np.concatenate([left, right], axis=1)

    monkeypatch.setattr(visualize.comparison, "draw_instances", draw)
    monkeypatch.setattr(visualize.comparison, "side_by_side", join)
    visualize.draw_comparison(OneImage(truth), found, ["cell"])
    (truth_colors, truth_marks), (colors, marks) = drawn
    assert truth_marks == ["missed", "", "crowd"]
    assert truth_colors == [RED, instance_color(1), GREY]
    assert marks == ["", "", "false"]
    assert colors == [GREY, instance_color(1), RED]
    assert titles == ["ground truth: 2, missed: 1", "prediction: 3, false: 1"]


def test_no_instance_has_the_color_of_mistakes():
    for number in range(100):
        _, green, blue = instance_color(number)
        assert max(green, blue) > 150
        assert instance_color(number) not in (RED, GREY)
    assert len({instance_color(number) for number in range(100)}) > 95


def rectangles(corners, sizes):
    shown = [i for i, corner in enumerate(corners) if corner is not None]
    starts = np.asarray([corners[i] for i in shown])
    return np.concatenate([starts, starts + sizes[shown]], axis=1)


@pytest.mark.parametrize("count", [1, 30, 200])
@pytest.mark.parametrize("area", [60, 500])
def test_labels_cover_neither_each_other_nor_the_edge(count, area):
    rng = np.random.default_rng(count)
    starts = rng.uniform(0, area, (count, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(2, 80, (count, 2))], axis=1)
    sizes = rng.integers(8, 60, (count, 2))
    reserved = np.asarray([[0.0, 480.0, 100.0, 500.0]])
    corners = place_labels(boxes, sizes, (500, 500), reserved)
    assert corners[0] is not None
    placed = np.concatenate([rectangles(corners, sizes), reserved])
    assert placed.min() >= 0
    assert placed.max() <= 500
    starts = np.maximum(placed[:, None, :2], placed[None, :, :2])
    ends = np.minimum(placed[:, None, 2:], placed[None, :, 2:])
    overlaps = (starts < ends).all(2)
    assert overlaps.sum() == len(placed)  # each with itself


def test_a_label_goes_above_its_box_and_equal_boxes_get_labels_beside_each_other():
    boxes = np.asarray([[50.0, 50.0, 90.0, 90.0]] * 3)
    corners = place_labels(boxes, np.asarray([[30, 10]] * 3), (200, 200))
    assert corners[0] == (50, 40)
    assert len(set(corners)) == 3
    for x, y in corners:
        assert 10 <= x <= 110
        assert 10 <= y <= 120


def test_a_label_without_a_place_is_left_out():
    boxes = np.tile([10.0, 10.0, 20.0, 20.0], (50, 1))
    corners = place_labels(boxes, np.full((50, 2), 15), (400, 400))
    assert corners[0] is not None
    assert corners[-1] is None
    # A label that is larger than the picture starts at its corner.
    assert place_labels(boxes[:1], np.asarray([[900, 9]]), (400, 400)) == [(0, 1)]


def test_lines_and_text_grow_with_the_picture():
    small, large = (_style(np.zeros((side, side, 3), np.uint8)) for side in (800, 4000))
    assert (small.line, large.line) == (1, 5)
    assert large.font == 4 * small.font
    assert _style(np.zeros((800, 800, 3), np.uint8), crowded=True).font < small.font


def test_scores_of_one_class_and_of_many_objects_are_written(monkeypatch):
    written = []
    monkeypatch.setattr(visualize.draw.cv2, "putText", lambda *a: written.append(a[1]))
    count = 45
    boxes = np.asarray(
        [[x * 20, y * 20, x * 20 + 9, y * 20 + 9] for x in range(9) for y in range(5)]
    )
    visualize.draw_instances(
        np.zeros((200, 200, 3), np.uint8),
        boxes.astype(np.float32),
        np.zeros(count, int),
        ["cell"],
        None,
        np.full(count, 0.5),
    )
    assert written == ["0.50"] * count + ["45 instances"]


def test_no_label_is_where_the_number_of_instances_is_written(monkeypatch):
    notes = []
    monkeypatch.setattr(
        visualize.draw, "place_labels", lambda *a: notes.append(a[3:]) or place_labels(*a)
    )
    black = np.zeros((800, 800, 3), np.uint8)
    boxes = np.tile([0.0, 790.0, 20.0, 799.0], (40, 1)).astype(np.float32)
    visualize.draw_instances(black, boxes, np.zeros(40, int), ["cell"], None, np.ones(40))
    (), (note,) = notes  # some labels found no place, so room was made for a note
    x1, y1, x2, y2 = note[0]
    assert (x1, y2) == (0, 800)
    assert x2 > 100
    assert y1 > 700


def test_a_title_fits_a_narrow_picture(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        visualize.draw.cv2, "putText", lambda bar, text, *a: drawn.append((text, *a[1:3]))
    )
    for width in (1, 150, 900):
        visualize.draw.with_title(np.zeros((1500, width, 3), np.uint8), "image id 12: 3 objects")
    sizes = [cv2.getTextSize(text, font, scale, 1)[0][0] for text, font, scale in drawn]
    assert sizes[1] <= 150
    assert sizes[1] < sizes[2] < 900
