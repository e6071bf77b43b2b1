import numpy as np

from jaxseg.data.transforms.sample import make_sample
from jaxseg.types import TargetSpec
from tests.data.scenes import rectangle, scene


def test_of_too_many_objects_those_with_the_largest_boxes_are_kept_in_order():
    """The larger ones are at the origin, where their coordinates are the smaller ones."""
    corners = [(40, 30, 43, 34), (0, 0, 9, 2), (50, 2, 52, 12), (2, 3, 10, 9), (30, 30, 31, 31)]
    example = scene([rectangle(40, 60, *box) for box in corners])
    for count, kept in ((1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (6, range(5))):
        sample = make_sample(
            example,
            bucket=(64, 64),
            min_max_size=(40, 60),
            max_objects=count,
            targets=TargetSpec(),
            flipped=False,
        )
        number = len(kept)
        np.testing.assert_array_equal(sample.labels[:number], kept)
        np.testing.assert_array_equal(sample.boxes[:number], np.asarray(corners)[kept])
        np.testing.assert_array_equal(sample.valid, np.arange(count) < number)
