"""SOLO's two suppressions: of neighbouring grid cells, and of masks (Matrix NMS).

Both lower scores and remove nothing, so that shapes stay as they are.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def points_nms(scores: Float[Array, "S S C"]) -> Float[Array, "S S C"]:
    """Scores with 0 at every cell that the cell above, to the left or above left outdoes.

    Wang et al. 2020 (arXiv 2003.10152) as its authors and MMDetection run it: a max-pooling of
    2x2 whose window ends at the cell.
    """
    padded = jnp.pad(scores, ((1, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
    rows = jnp.maximum(padded[1:], padded[:-1])
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
    """The scores of binary masks, decayed by better masks of the same label that they overlap.

    Wang et al. 2020, equations 4 and 5: the decay of mask j is the least, over better masks i, of
    `f(iou(i, j)) / f(the most that i itself is overlapped by a better one)`. `gaussian` is
    `f(iou) = exp(-sigma iou^2)`, `linear` is `1 - iou`. Equal scores go by the lower index.
    Masks that are not `valid` get 0 and decay nothing. Takes O(N^2) memory beside the masks.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel must be 'gaussian' or 'linear', not {kernel!r}")
    count = scores.shape[0]
    if valid is None:
        valid = jnp.ones(count, bool)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    flat = masks[order].reshape(count, math.prod(masks.shape[1:])).astype(scores.dtype)
    labels, usable = labels[order], valid[order]
    common, area = flat @ flat.T, flat.sum(1)
    union = area[:, None] + area[None, :] - common
    iou = jnp.where(union > 0, common / jnp.where(union > 0, union, 1), 0)
    rank = jnp.arange(count)
    rivals = (rank[:, None] < rank[None, :]) & (labels[:, None] == labels[None, :])
    iou = jnp.where(rivals & usable[:, None] & usable[None, :], iou, 0)
    covered = iou.max(axis=0, initial=0)
    if kernel == "gaussian":
        decay = jnp.exp(sigma * (covered**2)[:, None] - sigma * iou**2)
    else:
        # A mask that a better one equals decays nothing that this one does not.
        free = (1 - covered)[:, None]
        decay = jnp.where(free > 0, (1 - iou) / jnp.where(free > 0, free, 1), 1)
    decayed = jnp.where(usable, scores[order] * decay.min(axis=0, initial=1), 0)
    return jnp.zeros_like(decayed).at[order].set(decayed)
