"""Settings that are proposed for a dataset."""

import dataclasses

import numpy as np
import pytest

from jaxseg.data import Shapes
from jaxseg.data.proposal import data_config, propose
from jaxseg.data.source import Category, Example


@dataclasses.dataclass
class Source:
    """Images of given sizes, each with square objects of given sides."""

    sizes: list
    sides: list
    object_counts: np.ndarray | None = None
    categories = (Category(1, "a"), Category(7, "b"))
    fingerprint = ""

    @property
    def image_ids(self):
        return range(len(self.sizes))

    @property
    def image_sizes(self):
        return np.asarray(self.sizes, np.int32)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        boxes = np.asarray([[0, 0, side, side] for side in self.sides], np.float32)
        none = np.zeros(len(self.sides), bool)
        image = np.zeros((*self.sizes[index], 3), np.uint8)
        return Example(image, index, boxes.reshape(-1, 4), none.astype(np.int32), [], none)

    def ground_truth(self):
        return {}


def test_small_images_keep_their_size():
    proposal = propose(Source([(200, 300)] * 5, [20.0] * 11))
    assert proposal == (2, None, None, ((224, 320),), (16.0, 32.0, 64.0, 128.0, 256.0), 16)


def test_large_images_are_resized_by_the_size_of_their_objects():
    landscape = [(3000, 4000)] * 30
    large = propose(Source(landscape, [500.0] * 3))
    assert (large.min_size, large.max_size) == (480, 640)
    assert large.buckets == ((480, 640),)
    assert large.anchor_sizes[0] == 32.0  # of 80 pixels, where larger anchors are level by level
    small = propose(Source(landscape, [40.0] * 3))
    assert (small.min_size, small.max_size) == (768, 1024)
    assert small.anchor_sizes[0] == 8.0
    both = propose(Source([*landscape, *[(4000, 3000)] * 5], [500.0]))
    assert both.buckets == ((480, 640), (640, 480))
    portrait = propose(Source([(4000, 3000)] * 5, [500.0]))
    assert portrait.buckets == ((640, 480),)


def test_a_split_without_objects_and_with_known_counts():
    assert propose(Source([(64, 64)], [])).max_objects == 8
    source = Source([(64, 64)] * 100, [9.0], object_counts=np.arange(100))
    assert propose(source).max_objects == 104


@pytest.mark.parametrize("size", [64, 128])
def test_the_data_settings_of_a_proposal(size):
    source = Shapes(size=size, train_images=20)
    config = data_config(source, propose(source.open("train")))
    assert config.buckets == ((size, size),)
    assert config.min_max_size is None
    assert config.source == source
