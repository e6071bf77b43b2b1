import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import ops
from tests import strategies
from tests.oracles import sampling as oracle

sample = jax.jit(ops.sample_balanced, static_argnames=("size", "positive_fraction"))
random_priority = jax.jit(lambda seed, ids: ops.random_priority(jax.random.key(seed), ids))


@pytest.mark.parametrize(("size", "fraction"), [(6, 0.5), (7, 0.25), (4, 1.0), (14, 0.5)])
@settings(max_examples=30, deadline=None)
@given(
    priority=strategies.integers(10, 0, 5).map(lambda k: (k / 8).astype(np.float32)),
    kind=strategies.integers(10, 0, 2),
)
def test_sampling_agrees_with_the_definition(size, fraction, priority, kind):
    choice = functools.partial(sample, size=size, positive_fraction=fraction)
    chosen, valid, positive = map(np.asarray, choice(priority, kind == 1, kind == 2))
    positives, negatives = oracle.sample(priority, kind == 1, kind == 2, size, fraction)
    assert chosen[valid].tolist() == positives + negatives
    assert valid.tolist() == [slot < len(positives + negatives) for slot in range(size)]
    assert positive.tolist() == [slot < len(positives) for slot in range(size)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 2), ids=strategies.integers(8, 0, 1000))
def test_a_priority_depends_on_the_key_and_the_id_alone(seed, ids):
    drawn = np.asarray(random_priority(seed, ids))
    assert ((drawn >= 0) & (drawn < 1)).all()
    for i, value in zip(ids, drawn, strict=True):
        np.testing.assert_array_equal(random_priority(seed, np.full(8, i, np.int32)), value)
    others = np.asarray(random_priority(seed + 1, ids))
    assert (drawn != others).any()
