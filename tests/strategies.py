"""Hypothesis strategies: arrays, and boxes with ties, duplicates, no area, or swapped corners.

Coordinates are quarters of a pixel, so that float32 has no rounding in areas and the naive
versions see the same ties.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def quarters(shape, low, high):
    """Draw float32 arrays of multiples of 1/4 between two numbers."""
    elements = st.integers(4 * low, 4 * high)
    return hnp.arrays(np.int64, shape, elements=elements).map(lambda k: k.astype(np.float32) / 4)


def floats(shape, low, high):
    """Draw float32 arrays without subnormal numbers: XLA takes them for zero, NumPy does not."""
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=elements)


def flags(shape):
    return hnp.arrays(bool, shape, elements=st.booleans())


def integers(shape, low, high):
    return hnp.arrays(np.int32, shape, elements=st.integers(low, high))


@st.composite
def boxes(draw, count, smallest=-2, largest=30, low=-10, high=40):
    """Draw boxes `[count, 4]`, some of them duplicates; negative sides swap corners."""
    corner = draw(quarters((count, 2), low, high))
    size = draw(quarters((count, 2), smallest, largest))
    source = draw(integers(count, 0, count - 1))
    return np.concatenate([corner, corner + size], axis=1)[source]
