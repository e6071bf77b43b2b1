import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxseg import losses
from tests import strategies
from tests.goldens import load_golden
from tests.oracles import losses as oracle
from tests.oracles.boxes import area

FOCAL = [(0.25, 2.0), (None, 2.0), (0.5, 1.5), (0.75, 1.0), (0.25, 0.0), (None, 5.0)]


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(loss, x, targets):
    """Return a loss for each element or row, and the gradient of its sum."""
    value, pullback = jax.vjp(lambda x: loss(x, targets), x)
    return value, pullback(jnp.ones_like(value))[0]


def check(loss, x, targets, naive, tolerance=1e-5):
    """Compare with the oracle `naive(x, target)`, the loss of one element or row."""
    value, gradient = value_and_gradient(loss, x, targets)
    for index in np.ndindex(value.shape):
        target = np.asarray(targets[index], float)
        expected = naive(np.asarray(x[index], float), target)
        np.testing.assert_allclose(value[index], expected, rtol=tolerance, atol=tolerance)
        expected = oracle.gradient(lambda y, t=target: naive(y, t), np.asarray(x[index]))
        np.testing.assert_allclose(gradient[index], expected, rtol=1e-4, atol=tolerance)


def logits(shape):
    """Draw logits other than 0, which has its own test."""
    return strategies.quarters(shape, -12, 12).map(lambda x: x + np.float32(1 / 8))


@settings(max_examples=30, deadline=None)
@given(x=logits((3, 4)), targets=strategies.quarters((3, 4), 0, 1))
def test_sigmoid_cross_entropy_agrees_with_its_definition(x, targets):
    check(losses.sigmoid_cross_entropy, x, targets, oracle.sigmoid_cross_entropy)


@settings(max_examples=30, deadline=None)
@given(x=logits((4, 5)), labels=strategies.integers(4, 0, 4))
def test_softmax_cross_entropy_agrees_with_its_definition(x, labels):
    check(
        losses.softmax_cross_entropy,
        x,
        labels,
        lambda x, label: oracle.softmax_cross_entropy(x, int(label)),
    )


FOCAL_LOSSES = {
    options: functools.partial(losses.sigmoid_focal_loss, alpha=options[0], gamma=options[1])
    for options in FOCAL
}


@pytest.mark.parametrize("options", FOCAL)
@settings(max_examples=20, deadline=None)
@given(x=logits((3, 4)), targets=strategies.integers((3, 4), 0, 1))
def test_focal_loss_agrees_with_its_definition(options, x, targets):
    check(
        FOCAL_LOSSES[options],
        x,
        targets.astype(np.float32),
        lambda x, target: oracle.sigmoid_focal(x, target, *options),
        tolerance=2e-5,
    )


SMOOTH_L1_LOSSES = {
    beta: functools.partial(losses.smooth_l1_loss, beta=beta) for beta in (0.0, 1 / 9, 0.5, 1.0)
}


@pytest.mark.parametrize("beta", SMOOTH_L1_LOSSES)
@settings(max_examples=30, deadline=None)
@given(x=strategies.quarters((3, 4), -3, 3), targets=strategies.quarters((3, 4), -3, 3))
def test_smooth_l1_loss_agrees_with_its_definition(beta, x, targets):
    if beta == 0:
        x = x + np.float32(1 / 8)  # off the kink
    check(
        SMOOTH_L1_LOSSES[beta],
        x,
        targets,
        lambda x, target: oracle.smooth_l1(x, target, beta),
        tolerance=2e-5,
    )


DICE_LOSSES = {e: functools.partial(losses.dice_loss, epsilon=e) for e in (1e-3, 1.0)}


@pytest.mark.parametrize("epsilon", DICE_LOSSES)
@settings(max_examples=20, deadline=None)
@given(
    p=strategies.integers((2, 3, 2), 0, 64).map(lambda k: (k / 64).astype(np.float32)),
    targets=strategies.flags((2, 3, 2)),
)
def test_dice_loss_agrees_with_its_definition(epsilon, p, targets):
    naive = functools.partial(oracle.dice, epsilon=epsilon)
    check(DICE_LOSSES[epsilon], p, targets.astype(np.float32), naive, tolerance=2e-5)


@settings(max_examples=40, deadline=None)
@given(x=strategies.boxes(5, largest=12, high=12), targets=strategies.boxes(5, largest=12, high=12))
def test_giou_loss_agrees_with_its_definition(x, targets):
    value, gradient = value_and_gradient(losses.giou_loss, x, targets)
    expected = [oracle.giou(*pair) for pair in zip(x.astype(float), targets, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(gradient).all()
    same, _ = value_and_gradient(losses.giou_loss, targets, targets)
    empty = np.asarray([area(box) == 0 for box in targets])
    np.testing.assert_array_equal(np.asarray(same)[~empty], 0)
    # Off the kinks: no two corners of a pair share a coordinate, and no side is 0.
    x = x + np.asarray([1, 1, 3, 3], np.float32) / 32
    targets = targets + np.asarray([5, 5, 7, 7], np.float32) / 32
    check(losses.giou_loss, x, targets, oracle.giou)


@settings(max_examples=40, deadline=None)
@given(a=strategies.boxes(5, smallest=0), b=strategies.boxes(5, smallest=0))
def test_giou_loss_is_between_0_and_2_and_symmetric(a, b):
    value, _ = value_and_gradient(losses.giou_loss, a, b)
    assert np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 2))
    swapped, _ = value_and_gradient(losses.giou_loss, b, a)
    np.testing.assert_allclose(value, swapped, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "naive"),
    [
        (losses.sigmoid_cross_entropy, oracle.sigmoid_cross_entropy),
        (losses.sigmoid_focal_loss, functools.partial(oracle.sigmoid_focal, alpha=0.25, gamma=2)),
    ],
)
def test_the_gradient_of_a_logit_of_zero(loss, naive):
    check(loss, np.zeros(2, np.float32), np.asarray([0, 1], np.float32), naive)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_focal_loss_of_confident_correct_logits_has_a_finite_gradient_for_small_gamma(gamma):
    x, targets = jnp.asarray([30.0, -200.0]), jnp.asarray([1.0, 0.0])
    gradient = jax.grad(lambda x: losses.sigmoid_focal_loss(x, targets, gamma=gamma).sum())(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


REDUCTIONS = {"none": lambda x: x, "sum": jnp.sum, "mean": jnp.mean}


def golden_losses(array, case):
    """Return the name of a golden case's input, and the loss as a function of it."""
    options, key = case["params"], case["key"]
    if "focal" in key:
        alpha = None if options["alpha"] < 0 else options["alpha"]
        name = "inputs" if key.startswith("focal") else "pred"
        if name == "inputs":
            targets = array("targets")
        else:  # the label after the last class is the background
            targets = jnp.eye(8, 7)[array("label")]
        return name, lambda x: losses.sigmoid_focal_loss(
            x, targets, alpha=alpha, gamma=options["gamma"]
        )
    if key.startswith("smooth_l1"):
        targets = array("target")
        return "input", lambda x: losses.smooth_l1_loss(x, targets, beta=options["beta"])
    if key.startswith("dice"):
        targets = array("target")
        return (
            "pred_logits",
            lambda x: (
                options["loss_weight"]
                * losses.dice_loss(jax.nn.sigmoid(x), targets, epsilon=options["eps"])
            ),
        )
    name, other = ("pred", "target") if key == "mmgiou" else ("boxes1", "boxes2")
    targets = array(other)
    return name, lambda x: losses.giou_loss(x, targets)


@pytest.mark.parametrize(
    "key",
    [
        *("focal0", "focal1", "focal2", "focal3", "mmfocal0", "mmfocal1"),
        *("smooth_l1_0", "smooth_l1_1", "smooth_l1_2", "dice0", "dice1", "dice3"),
        *("generalized_box_iou_loss", "mmgiou"),
    ],
)
def test_golden_with_gradient(shared, key):
    meta, golden = load_golden(shared, "losses")
    case = next(c for c in meta["cases"] if c["key"] == key)
    name, loss = golden_losses(lambda name: jnp.asarray(golden[f"{key}__{name}"]), case)
    reduce = REDUCTIONS[case["params"].get("reduction", "none")]
    if case.get("avg_factor"):

        def reduce(values):
            return values.sum() / case["avg_factor"]

    @jax.jit
    def run(x):
        value, pullback = jax.vjp(lambda x: reduce(loss(x)), x)
        return value, pullback(jnp.ones_like(value))[0]

    value, gradient = run(golden[f"{key}__{name}"])
    np.testing.assert_allclose(value, golden[f"{key}__out"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, golden[f"{key}__grad_{name}"], rtol=1e-4, atol=1e-6)


def test_golden_giou_of_all_pairs(shared):
    _, golden = load_golden(shared, "losses")
    a, b = (jnp.asarray(golden[f"pair__boxes{i}"]) for i in (1, 2))
    shape = (len(a), len(b), 4)
    loss = losses.giou_loss(jnp.broadcast_to(a[:, None], shape), jnp.broadcast_to(b[None], shape))
    np.testing.assert_allclose(1 - loss, golden["pair__generalized_box_iou"], atol=1e-6)


def test_extreme_logits_stay_finite():
    logits = jnp.asarray([-1e4, 0.0, 1e4])
    targets = jnp.asarray([1.0, 0.5, 0.0])
    for loss in (losses.sigmoid_cross_entropy, losses.sigmoid_focal_loss):
        value, gradient = jax.value_and_grad(lambda x, f=loss: f(x, targets).sum())(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_smooth_l1_with_beta_0_is_l1():
    value = losses.smooth_l1_loss(jnp.asarray([-2.0, 0.5]), jnp.zeros(2), beta=0.0)
    np.testing.assert_allclose(value, [2.0, 0.5])


def test_giou_of_empty_boxes_is_finite():
    point, box = jnp.asarray([[3.0, 3.0, 3.0, 3.0]]), jnp.asarray([[0.0, 0.0, 6.0, 6.0]])
    for a, b, expected in ((point, point, 1.0), (point, box, 1.0), (box, box, 0.0)):
        value, gradient = jax.value_and_grad(lambda x, b=b: losses.giou_loss(x, b).sum())(a)
        np.testing.assert_allclose(value, expected)
        assert np.isfinite(gradient).all()
