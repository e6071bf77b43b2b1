import numpy as np


def sample(
    priority: np.ndarray,
    positive: np.ndarray,
    negative: np.ndarray,
    size: int,
    positive_fraction: float,
) -> tuple[list[int], list[int]]:
    """Return the sampled positives and the sampled negatives, in order."""

    def best(eligible: np.ndarray, count: int) -> list[int]:
        candidates = [i for i in range(len(priority)) if eligible[i]]
        return sorted(candidates, key=lambda i: (-priority[i], i))[:count]

    positives = best(positive, int(size * positive_fraction))
    return positives, best(negative, size - len(positives))
