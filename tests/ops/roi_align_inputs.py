"""Inputs of the tests of RoIAlign, on one map and on a pyramid."""

import numpy as np

from tests import strategies

OUT = (2, 4)
OFFSET = np.float32(2**-8)
"""Added to boxes in quarters of a pixel, it keeps samples off the map's border, where RoIAlign is
discontinuous, and sizes off those where the number of adaptive samples changes: there, rounding
would decide the result."""


def maps(shape):
    return strategies.integers(shape, -8, 8).map(lambda k: k.astype(np.float32))


def boxes_off_the_rim(count):
    return strategies.boxes(count, largest=40, low=-16, high=40).map(lambda boxes: boxes + OFFSET)
