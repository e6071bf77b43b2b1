"""Random choice of a fixed number of anchors or proposals to learn from.

A choice depends on (key, id) of each candidate and not on how many candidates there are or
in which order they stand, so that padding changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


class Samples(NamedTuple):
    """S chosen candidates: positives first, then negatives, then unused slots."""

    indices: Int[Array, " S"]
    valid: Bool[Array, " S"]
    positive: Bool[Array, " S"]


def random_priority(key: Key[Array, ""], ids: Int[Array, " K"]) -> Float[Array, " K"]:
    """A number in [0, 1) for each id, drawn from `key` and the id alone."""
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
    """Up to `size * positive_fraction` positives, and negatives up to `size` in all.

    Those with the highest priority are taken (Girshick 2015, arXiv 1504.08083, section 2.3;
    the numbers are those of torchvision's `BalancedPositiveNegativeSampler`).
    """
    most_positives = int(size * positive_fraction)
    positive_index, num_positive = _best(priority, positive, most_positives)
    negative_index, num_negative = _best(priority, negative, size)
    slot = jnp.arange(size)
    is_positive = slot < num_positive
    from_positives = jnp.pad(positive_index, (0, size - most_positives))
    from_negatives = negative_index[jnp.maximum(slot - num_positive, 0)]
    valid = slot < num_positive + num_negative
    index = jnp.where(is_positive, from_positives, from_negatives)
    return Samples(jnp.where(valid, index, 0), valid, is_positive)


def _best(
    priority: Float[Array, " K"], eligible: Bool[Array, " K"], slots: int
) -> tuple[Int[Array, " S"], Int[Array, ""]]:
    """Indices of the eligible candidates with the highest priority, and how many there are."""
    best, index = jax.lax.top_k(jnp.where(eligible, priority, -1), min(slots, len(priority)))
    index = jnp.pad(index, (0, slots - len(index)))
    return index, (best >= 0).sum()
