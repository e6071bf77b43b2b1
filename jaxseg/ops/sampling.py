"""Sample a fixed number of anchors or proposals to learn from.

Sampling depends on the key and on stable ids of the K candidates, not on their number or order, so
padding does not change it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Samples(NamedTuple):
    """S sampled candidates: positives first, then negatives, then unused slots."""

    indices: Int[Array, " S"]
    valid: Bool[Array, " S"]
    positive: Bool[Array, " S"]


def random_priority(key: Key[Array, ""], ids: Int[Array, " K"]) -> Float[Array, " K"]:
    """Draw a number in [0, 1) for each id, from `key` and the id alone.

    >>> priority = random_priority(jax.random.key(0), jnp.asarray([3, 5, 3]))
    >>> bool(priority[0] == priority[2]), bool(priority[0] == priority[1])
    (True, False)
    """
    # The top 24 bits, all that a float32 in [0, 1) holds.
    bits = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i)))(ids)
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def sample_balanced(
    priority: Float[Array, " K"],
    positive: Bool[Array, " K"],
    negative: Bool[Array, " K"],
    *,
    size: int,
    positive_fraction: float,
) -> Samples:
    """Sample up to `size * positive_fraction` positives, and negatives up to `size` in all.

    Takes those with the highest `priority`, which is not negative (Girshick 2015, arXiv 1504.08083,
    section 2.3; the numbers are those of torchvision's `BalancedPositiveNegativeSampler`).

    >>> priority = jnp.asarray([0.1, 0.9, 0.5, 0.7])
    >>> positive = jnp.asarray([True, True, False, False])
    >>> samples = sample_balanced(priority, positive, ~positive, size=4, positive_fraction=0.25)
    >>> samples.indices.tolist(), samples.valid.tolist()
    ([1, 3, 2, 0], [True, True, True, False])
    """
    max_positives = int(size * positive_fraction)
    positive_index, num_positive = _best(priority, positive, max_positives)
    negative_index, num_negative = _best(priority, negative, size)
    slot = jnp.arange(size)
    is_positive = slot < num_positive
    from_positives = jnp.pad(positive_index, (0, size - max_positives))  # [S]
    from_negatives = negative_index[jnp.maximum(slot - num_positive, 0)]  # [S]
    valid = slot < num_positive + num_negative
    index = jnp.where(is_positive, from_positives, from_negatives)
    return Samples(jnp.where(valid, index, 0), valid, is_positive)


def _best(
    priority: Float[Array, " K"], eligible: Bool[Array, " K"], slots: int
) -> tuple[Int[Array, " S"], Int[Array, ""]]:
    """Return the indices of the eligible candidates with the highest priority, and their number."""
    best, index = jax.lax.top_k(jnp.where(eligible, priority, -1), min(slots, len(priority)))
    index = jnp.pad(index, (0, slots - len(index)))
    return index, (best >= 0).sum()
