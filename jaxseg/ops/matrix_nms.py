"""Suppress SOLO's duplicates: of neighbouring grid cells, and of masks (Matrix NMS).

Both lower scores and remove nothing, so that shapes stay as they are.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def points_nms(scores: Float[Array, "S S C"]) -> Float[Array, "S S C"]:
    """Set a cell's score to 0 if the cell above, to the left or above left has a higher one.

    Wang et al. 2020 (arXiv 2003.10152) as its authors and MMDetection run it: a max-pooling of
    2x2 whose window ends at the cell.

    >>> points_nms(jnp.asarray([[[3.0], [1.0]], [[2.0], [4.0]]]))[..., 0].tolist()
    [[3.0, 0.0], [0.0, 4.0]]
    """
    padded = jnp.pad(scores, ((1, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
    rows = jnp.maximum(padded[1:], padded[:-1])  # [S, S + 1, C]
    best = jnp.maximum(rows[:, 1:], rows[:, :-1])
    return jnp.where(scores == best, scores, 0)


def matrix_nms(
    masks: Bool[Array, "N H W"] | Num[Array, "N H W"],
    labels: Int[Array, " N"],
    scores: Float[Array, " N"],
    *,
    kernel: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    valid: Bool[Array, " N"] | None = None,
) -> Float[Array, " N"]:
    """Return the scores of binary masks, decayed by better masks of the same label.

    Wang et al. 2020, equations 4 and 5: the decay of mask j is the least, over better masks i, of
    `f(iou(i, j)) / f(c(i))`, with c(i) the largest IoU of i with a mask better than i. `gaussian`
    is `f(iou) = exp(-sigma iou^2)`, `linear` is `1 - iou`. Of equal scores the lower index is the
    better one. Masks that are not `valid` get 0 and decay nothing. Takes O(N^2) memory beside the
    masks. Raises ValueError for another `kernel`.

    >>> masks = jnp.ones((2, 4, 4), bool)
    >>> scores = jnp.asarray([0.5, 1.0])
    >>> matrix_nms(masks, jnp.asarray([7, 7]), scores, kernel="linear").tolist()
    [0.0, 1.0]
    >>> matrix_nms(masks, jnp.asarray([7, 8]), scores, kernel="linear").tolist()
    [0.5, 1.0]
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel must be 'gaussian' or 'linear', not {kernel!r}")
    count = scores.shape[0]
    if valid is None:
        valid = jnp.ones(count, bool)
    # From here on, all arrays are in descending order of score.
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    labels, valid = labels[order], valid[order]
    iou = _mask_iou(masks[order], scores.dtype)  # [N, N]: mask i in rows, mask j in columns
    rank = jnp.arange(count)
    decays = (rank[:, None] < rank[None, :]) & (labels[:, None] == labels[None, :])
    iou = jnp.where(decays & valid[:, None] & valid[None, :], iou, 0)
    compensation = iou.max(axis=0, initial=0)  # c(i), [N]
    if kernel == "gaussian":
        decay = jnp.exp(sigma * (compensation**2)[:, None] - sigma * iou**2)
    else:
        # f(c(i)) is 0 if a better mask equals i; that mask then decays j as much as i would.
        remaining = (1 - compensation)[:, None]
        decay = jnp.where(remaining > 0, (1 - iou) / jnp.where(remaining > 0, remaining, 1), 1)
    decayed = jnp.where(valid, scores[order] * decay.min(axis=0, initial=1), 0)
    return jnp.zeros_like(decayed).at[order].set(decayed)


def _mask_iou(
    masks: Bool[Array, "N H W"] | Num[Array, "N H W"], dtype: jnp.dtype
) -> Float[Array, "N N"]:
    """Return the IoU of all pairs of binary masks; 0 where both are empty."""
    flat = masks.reshape(masks.shape[0], math.prod(masks.shape[1:])).astype(dtype)  # [N, H W]
    intersection, area = flat @ flat.T, flat.sum(1)
    union = area[:, None] + area[None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)
