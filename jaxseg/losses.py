"""Compute losses of single elements, boxes and masks.

They are not summed over objects or images: models sum them and state the count to divide by
(`jaxseg.types.LossTerm`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.ops.boxes import box_area


def sigmoid_cross_entropy(
    logits: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Compute binary cross-entropy of `sigmoid(logits)` with targets in [0, 1].

    >>> print(sigmoid_cross_entropy(jnp.asarray([0.0, 50.0]), jnp.asarray([1.0, 0.0])).round(4))
    [ 0.6931 50.    ]
    """
    return jax.nn.softplus(logits) - logits * targets


def softmax_cross_entropy(
    logits: Float[Array, "*N C"], labels: Int[Array, "*N"]
) -> Float[Array, "*N"]:
    """Compute cross-entropy of `softmax(logits)` with labels in [0, C).

    >>> softmax_cross_entropy(jnp.asarray([[0.0, 50.0]]), jnp.asarray([0])).tolist()
    [50.0]
    """
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
    return -log_probability[..., 0]


def smooth_l1_loss(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"], *, beta: float = 1.0
) -> Float[Array, "*shape"]:
    """Compute a loss that is quadratic below `beta` and linear above.

    Girshick 2015, arXiv 1504.08083, equation 3. `beta=0` is the L1 loss.

    >>> smooth_l1_loss(jnp.asarray([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
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
    """Compute binary cross-entropy with easy examples down-weighted.

    Lin et al. 2017, arXiv 1708.02002, equation 5. `alpha` weighs positives and `1 - alpha`
    negatives; None weighs neither.

    >>> logits = jnp.asarray([0.0, 0.0, 50.0])
    >>> print(sigmoid_focal_loss(logits, jnp.asarray([1.0, 0.0, 1.0])).round(4))
    [0.0433 0.13   0.    ]
    """
    probability = jax.nn.sigmoid(logits)
    error = probability * (1 - targets) + (1 - probability) * targets
    # The gradient of a power at 0, where the sigmoid saturates, is not finite for gamma < 1.
    weight = jnp.where(error > 0, jnp.where(error > 0, error, 1) ** gamma, float(gamma == 0))
    loss = sigmoid_cross_entropy(logits, targets) * weight
    if alpha is None:
        return loss
    return loss * (alpha * targets + (1 - alpha) * (1 - targets))


def dice_loss(
    probabilities: Float[Array, "*N H W"], targets: Float[Array, "*N H W"], *, epsilon: float = 1e-3
) -> Float[Array, "*N"]:
    """Compute `1 - 2 sum(p t) / (sum p^2 + sum t^2)` over each mask's pixels.

    Milletari et al. 2016, arXiv 1606.04797; `epsilon` is added to both sums of squares, as
    SOLO's authors do (Wang et al. 2019, arXiv 1912.04488, equation 4).

    >>> mask = jnp.asarray([[[1.0, 0.0], [1.0, 0.0]]])
    >>> dice_loss(mask, mask, epsilon=0.0).tolist(), dice_loss(1 - mask, mask).tolist()
    ([0.0], [1.0])
    """
    overlap = (probabilities * targets).sum((-2, -1))
    squares = (probabilities**2).sum((-2, -1)) + epsilon + (targets**2).sum((-2, -1)) + epsilon
    return 1 - 2 * overlap / squares


def giou_loss(
    predictions: Float[Array, "*N 4"], targets: Float[Array, "*N 4"]
) -> Float[Array, "*N"]:
    """Compute 1 - generalised IoU of each pair of `xyxy` boxes.

    Rezatofighi et al. 2019, arXiv 1902.09630. Between 0 (equal boxes) and 2 (far apart); finite,
    with its gradient, for empty boxes.

    >>> box = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])
    >>> giou_loss(box, box).tolist(), giou_loss(box, box + 4).tolist()
    ([0.0], [1.5])
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
    """Return `part / whole`, 0 where the whole is 0."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)
