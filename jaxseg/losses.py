"""Element-wise losses. None of them reduces: what is summed and divided by what is the
model's business (see `jaxseg.types.LossTerm`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.ops.boxes import box_area


def sigmoid_cross_entropy(
    logits: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Binary cross-entropy of `sigmoid(logits)` with targets in [0, 1]."""
    return jax.nn.softplus(logits) - logits * targets


def softmax_cross_entropy(
    logits: Float[Array, "*N C"], labels: Int[Array, "*N"]
) -> Float[Array, "*N"]:
    """Cross-entropy of `softmax(logits)` with class numbers."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
    return -chosen[..., 0]


def smooth_l1_loss(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"], *, beta: float = 1.0
) -> Float[Array, "*shape"]:
    """Quadratic below `beta`, linear above (Girshick 2015, arXiv 1504.08083, equation 3).

    `beta=0` is the L1 loss.
    """
    distance = jnp.abs(predictions - targets)
    if beta == 0:
        return distance
    return jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def sigmoid_focal_loss(
    logits: Float[Array, "*shape"],
    targets: Float[Array, "*shape"],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Float[Array, "*shape"]:
    """Cross-entropy with easy examples down-weighted (Lin et al. 2017, arXiv 1708.02002, eq. 5).

    `alpha` weighs positives and `1 - alpha` negatives; None weighs neither.
    """
    probability = jax.nn.sigmoid(logits)
    wrong = probability * (1 - targets) + (1 - probability) * targets
    # Where the sigmoid saturates, the power of 0 has no gradient.
    weight = jnp.where(wrong > 0, jnp.where(wrong > 0, wrong, 1) ** gamma, float(gamma == 0))
    loss = sigmoid_cross_entropy(logits, targets) * weight
    if alpha is None:
        return loss
    return loss * (alpha * targets + (1 - alpha) * (1 - targets))


def dice_loss(
    probabilities: Float[Array, "*N H W"], targets: Float[Array, "*N H W"], *, epsilon: float = 1e-3
) -> Float[Array, "*N"]:
    """1 - 2 sum(p t) / (sum p^2 + sum t^2), one for each mask.

    Milletari et al. 2016, arXiv 1606.04797; `epsilon` is added to both sums of squares, as
    SOLO's authors do (Wang et al. 2019, arXiv 1912.04488, equation 4).
    """
    overlap = (probabilities * targets).sum((-2, -1))
    squares = (probabilities**2).sum((-2, -1)) + epsilon + (targets**2).sum((-2, -1)) + epsilon
    return 1 - 2 * overlap / squares


def giou_loss(
    predictions: Float[Array, "*N 4"], targets: Float[Array, "*N 4"]
) -> Float[Array, "*N"]:
    """1 - generalised IoU of each pair of `xyxy` boxes (Rezatofighi et al. 2019, arXiv 1902.09630).

    Between 0 (equal boxes) and 2 (far apart); finite, with its gradient, for empty boxes.
    """
    common = jnp.concatenate(
        [
            jnp.maximum(predictions[..., :2], targets[..., :2]),
            jnp.minimum(predictions[..., 2:], targets[..., 2:]),
        ],
        axis=-1,
    )
    hull = jnp.concatenate(
        [
            jnp.minimum(predictions[..., :2], targets[..., :2]),
            jnp.maximum(predictions[..., 2:], targets[..., 2:]),
        ],
        axis=-1,
    )
    intersection, hull_area = box_area(common), box_area(hull)
    union = box_area(predictions) + box_area(targets) - intersection
    return 1 - _ratio(intersection, union) + _ratio(hull_area - union, hull_area)


def _ratio(part: Float[Array, "*N"], whole: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """`part / whole`, 0 where the whole is nothing."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
