"""Pictures of panoptic maps: which colour a segment has, and where its label goes."""

import numpy as np

from jaxseg import visualize
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.visualize import panoptic as panoptic_module
from jaxseg.visualize.draw import GREY, RED, instance_color
from jaxseg.visualize.panoptic import stuff_color

NAMES, THINGS = ["cat", "dog", "sky", "sea"], 2
CAT, DOG, SKY, SEA = range(4)
IMAGE = np.full((100, 100, 3), 90, np.uint8)


def panoptic(*segments):
    """Return a map of squares, given by `(x, y, label, iscrowd)`."""
    ids, listed = np.zeros((100, 100), np.int32), []
    for number, (x, y, label, iscrowd) in enumerate(segments, start=1):
        ids[y : y + 20, x : x + 20] = number
        listed.append(Segment(number, label, iscrowd))
    return PanopticMap(ids, listed)


def test_segments_are_coloured_and_void_is_left_as_it_is():
    found = panoptic((0, 40, CAT, False), (40, 40, SKY, False))
    picture = visualize.draw_panoptic(IMAGE, found, NAMES, THINGS)
    assert picture.shape == (800, 800, 3)  # enlarged, so that labels can be read
    assert (picture[640:] == 90).all()
    for (x, y), color in (((5, 55), instance_color(0)), ((45, 55), stuff_color(SKY))):
        expected = (0.55 * 90 + 0.45 * np.asarray(color)).astype(int)
        np.testing.assert_array_equal(picture[8 * y, 8 * x], expected)


def test_a_map_without_segments_is_the_image():
    picture = visualize.draw_panoptic(IMAGE, panoptic(), NAMES, THINGS)
    assert (picture == 90).all()


def test_the_label_of_stuff_is_inside_it(monkeypatch):
    """The box around an arch has its middle outside."""
    ids = np.zeros((100, 100), np.int32)
    ids[10:90, 10:90] = 1
    ids[30:90, 20:80] = 0
    drawn = []

    def draw(image, *arguments):
        drawn.append(arguments)
        return image

    monkeypatch.setattr(panoptic_module, "draw_objects", draw)
    visualize.draw_panoptic(IMAGE, PanopticMap(ids, [Segment(1, SKY)]), NAMES, THINGS)
    boxes, _, texts, *_ = drawn[0]
    x, y, _, _ = boxes[0].astype(int)
    assert ids[y, x] == 1
    assert texts == ["sky"]


def test_a_comparison_uses_one_colour_for_a_thing_and_marks_what_differs(monkeypatch):
    truth = panoptic(
        (0, 0, CAT, False),
        (30, 0, DOG, False),
        (60, 0, SKY, False),
        (0, 60, SEA, False),
        (60, 60, DOG, True),
    )
    found = panoptic(
        (0, 30, CAT, False),  # in void
        (31, 0, DOG, False),
        (60, 1, SKY, False),
        (62, 60, DOG, False),
    )
    drawn, titles = [], []

    def draw(image, *arguments, colors, marks):
        drawn.append((colors, marks))
        return image

    def join(left, right, both):
        titles.extend(both)
        return np.concatenate([left, right], axis=1)

    monkeypatch.setattr(panoptic_module, "draw_panoptic", draw)
    monkeypatch.setattr(panoptic_module, "side_by_side", join)
    visualize.draw_panoptic_comparison(IMAGE, truth, found, NAMES, THINGS)
    (truth_colors, truth_marks), (colors, marks) = drawn
    sky, sea = stuff_color(SKY), stuff_color(SEA)
    assert truth_colors == [RED, instance_color(1), sky, sea, GREY]
    assert truth_marks == ["missed", "", "", "missed", "crowd"]
    assert colors == [GREY, instance_color(1), sky, GREY]
    assert marks == ["", "", "", ""]
    assert titles == ["ground truth: 5 segments, missed: 2", "prediction: 4 segments, false: 0"]
    false = panoptic((0, 60, CAT, False))
    visualize.draw_panoptic_comparison(IMAGE, truth, false, NAMES, THINGS)
    assert drawn[-1] == ([RED], ["false"])
