import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseg.data.order import Order


def sample_refs(order: Order, batches: int) -> list[tuple[int, int]]:
    """Return the `(epoch, index)` of every image in the first batches."""
    refs = []
    for number in range(batches):
        batch = order.batch(number)
        refs += list(zip(batch.epochs.tolist(), batch.indices.tolist(), strict=True))
    return refs


@given(
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_each_epoch_has_each_image_once_and_a_batch_has_one_group(groups, batch_size, seed):
    order = Order(np.asarray(groups), seed=seed, batch_size=batch_size)
    # A queue holds less than a batch, so this many batches contain two whole epochs.
    count = (2 * len(groups) + 4 * batch_size * len(groups)) // batch_size + 1
    uses = collections.Counter(sample_refs(order, count))
    assert max(uses.values()) == 1
    assert all(uses[epoch, index] == 1 for epoch in range(2) for index in range(len(groups)))
    for number in range(count):
        batch = order.batch(number)
        assert {groups[i] for i in batch.indices} == {batch.group}


def test_batches_do_not_depend_on_the_order_of_access():
    groups = np.arange(23) % 3
    order = Order(groups, seed=1, batch_size=4)
    in_turn = [order.batch(i) for i in range(40)]
    unpickled = pickle.loads(pickle.dumps(order))
    for number in (39, 0, 17, 16, 3):
        for a, b in zip(unpickled.batch(number), in_turn[number], strict=True):
            np.testing.assert_array_equal(a, b)


def test_epochs_and_seeds_have_different_orders():
    orders = [Order(np.zeros(50, int), seed=seed, batch_size=50) for seed in (0, 1)]
    orderings = {tuple(order.batch(i).indices) for order in orders for i in range(3)}
    assert len(orderings) == 6


@pytest.mark.parametrize("batch_size", [1, 6])
def test_with_one_group_batches_are_consecutive_parts_of_the_epochs(batch_size):
    refs = sample_refs(Order(np.zeros(10, int), seed=3, batch_size=batch_size), 30 // batch_size)
    assert [epoch for epoch, _ in refs] == [0] * 10 + [1] * 10 + [2] * 10
