import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.data import CocoFolder
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import Category
from jaxseg.evaluation import panoptic_quality
from tests.oracles.panoptic import slow_panoptic_quality
from tests.strategies import integers

CATEGORIES = [Category(7, "cat"), Category(3, "dog"), Category(90, "sky"), Category(91, "sea")]
CAT, DOG, SKY = 0, 1, 2


def panoptic(rows, *segments):
    return PanopticMap(np.asarray(rows, np.int32), [Segment(*segment) for segment in segments])


def quality(*pairs):
    return panoptic_quality(pairs, CATEGORIES, num_things=2)


@st.composite
def maps(draw):
    """Draw a small map, with crowds, void, and ids that are not consecutive."""
    ids = draw(integers((4, 5), 0, 3))
    segments = [
        Segment(100 * i, draw(st.integers(0, 3)), draw(st.booleans()))
        for i in draw(st.permutations([1, 2, 3]))
        if (ids == i).any()
    ]
    return PanopticMap(100 * ids, segments)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(maps(), maps()), min_size=1, max_size=3))
def test_quality_is_that_of_the_definition(pairs):
    metrics = panoptic_quality(pairs, CATEGORIES, num_things=2)
    groups = {"": range(4), "_things": range(2), "_stuff": range(2, 4)}
    groups |= {f"/{category.name}": [label] for label, category in enumerate(CATEGORIES)}
    for suffix, labels in groups.items():
        expected = slow_panoptic_quality(pairs, labels)
        for name, value in zip(("PQ", "SQ", "RQ"), expected, strict=True):
            assert metrics[f"panoptic/{name}{suffix}"] == (
                None if value is None else pytest.approx(value, abs=1e-12)
            )


def test_the_truth_as_prediction_is_perfect():
    truth = panoptic([[0, 5, 5, 9]], (5, DOG), (9, SKY))
    metrics = quality((truth, truth))
    assert metrics["panoptic/PQ"] == metrics["panoptic/SQ_stuff"] == metrics["panoptic/RQ/dog"] == 1
    assert metrics["panoptic/PQ/cat"] is None


def test_a_match_needs_more_than_half():
    truth = panoptic([[1] * 8], (1, CAT))
    half, more = panoptic([[1] * 4 + [0] * 4], (1, CAT)), panoptic([[1] * 5 + [0] * 3], (1, CAT))
    assert quality((truth, half))["panoptic/PQ"] == 0
    assert quality((truth, more))["panoptic/PQ"] == 5 / 8


def test_pixels_that_are_void_in_the_truth_do_not_count():
    truth = panoptic([[1, 1, 1, 0, 0, 0]], (1, CAT))
    assert quality((truth, panoptic([[1] * 6], (1, CAT))))["panoptic/PQ"] == 1


def test_a_false_prediction_mostly_on_void_or_a_crowd_of_its_class_is_ignored():
    truth = panoptic([[1, 1, 2, 2, 2, 0, 0, 3]], (1, CAT), (2, DOG, True), (3, SKY))
    on_crowd = panoptic([[1, 1, 0, 4, 4, 4, 4, 3]], (1, CAT), (3, SKY), (4, DOG))
    assert quality((truth, on_crowd))["panoptic/RQ"] == 1
    of_another_class = panoptic([[1, 1, 4, 4, 4, 4, 4, 3]], (1, CAT), (3, SKY), (4, CAT))
    assert quality((truth, of_another_class))["panoptic/RQ/cat"] == 1 / 1.5
    # Half is not enough.
    half = panoptic([[1, 4, 4, 0, 0, 0, 0, 3]], (1, CAT), (3, SKY), (4, DOG))
    assert quality((truth, half))["panoptic/RQ/dog"] == 0


def test_a_missed_crowd_costs_nothing():
    truth = panoptic([[1, 1, 2, 2]], (1, CAT), (2, DOG, True))
    metrics = quality((truth, panoptic([[1, 1, 0, 0]], (1, CAT))))
    assert metrics["panoptic/PQ"] == 1
    assert metrics["panoptic/PQ/dog"] is None


def test_an_empty_prediction_misses_everything():
    truth = panoptic([[1, 2, 2, 0]], (1, CAT), (2, SKY))
    metrics = quality((truth, panoptic([[0] * 4])))
    assert metrics["panoptic/PQ"] == metrics["panoptic/SQ"] == metrics["panoptic/RQ_things"] == 0


def test_nothing_in_the_truth_is_no_metric():
    empty = panoptic([[0] * 4])
    for pairs in ([], [(empty, empty)], [(empty, panoptic([[1] * 4], (1, CAT)))]):
        assert set(quality(*pairs).values()) == {None}


def test_each_segment_counts_alike_whatever_its_area():
    row = [1] + [2] * 99
    truth = panoptic([row], (1, CAT), (2, CAT))
    found = panoptic([[0, *row[1:]]], (2, CAT))
    assert quality((truth, found))["panoptic/PQ/cat"] == 1 / 1.5


def corrupt(truth, number):
    """Shift the segments of a map, merge some of a class, and relabel and drop others."""
    ids = np.roll(truth.ids, (3, 2 + number % 9), axis=(0, 1))
    found, segments, id_of = np.zeros_like(ids), [], {}
    for k, segment in enumerate(truth.segments):
        mask = ids == segment.id
        label = (segment.label + ((k + number) % 13 == 5)) % 133
        if (k + number) % 11 == 4:
            continue
        if (k + number) % 5 == 2 and label in id_of:
            found[mask] = id_of[label]
            continue
        found[mask] = id_of[label] = k + 1
        segments.append(Segment(k + 1, label))
    return PanopticMap(found, segments)


PANOPTICAPI = {
    "PQ": 0.394941153545037,
    "SQ": 0.46154629733324404,
    "RQ": 0.5111255659763122,
    "PQ_things": 0.23749916396852,
    "SQ_things": 0.3197764215013462,
    "RQ_things": 0.3173573900846628,
    "PQ_stuff": 0.5477524963693037,
    "SQ_stuff": 0.5991464709347918,
    "RQ_stuff": 0.6991946778711486,
    "PQ/person": 0.3424240043484834,
    "PQ/tree-merged": 0.7223713073160345,
}
"""What panopticapi's own code gives for the corrupted maps of COCO's photographs."""


def test_quality_is_that_of_panopticapi_to_all_digits(shared):
    source = CocoFolder(str(shared / "data" / "coco_panoptic"), panoptic=True).open("val")
    truths = [source.panoptic_map(i) for i in range(len(source))]
    pairs = [(truth, corrupt(truth, number)) for number, truth in enumerate(truths)]
    metrics = panoptic_quality(pairs, source.categories, source.num_things)
    for name, expected in PANOPTICAPI.items():
        assert metrics[f"panoptic/{name}"] == pytest.approx(expected, abs=1e-12)


GOOD = panoptic([[1, 2]], (1, CAT), (2, SKY))


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (GOOD, panoptic([[1, 2, 2]], (1, CAT), (2, SKY)), r"truth has \[1, 2\] pixels .* \[1, 3\]"),
        (GOOD, panoptic([[1, 2]], (1, CAT), (2, 4)), "segment 2 of the prediction has the label 4"),
        (panoptic([[1, 3]], (1, CAT)), GOOD, "the truth has pixels of the id 3"),
        (GOOD, panoptic([[-1, 1]], (1, CAT)), "the prediction has pixels of the id -1"),
        (GOOD, panoptic([[1, 1]], (1, CAT), (2, SKY)), "segment of the prediction has no pixels"),
        (GOOD, panoptic([[1, 1]], (1, CAT), (1, SKY)), "ids of the prediction's segments"),
        (panoptic([[0, 0]], (0, CAT)), GOOD, "ids of the truth's segments"),
    ],
)
def test_wrong_maps_are_refused(truth, found, message):
    with pytest.raises(ValueError, match=f"image number 1: .*{message}"):
        quality((GOOD, GOOD), (truth, found))
