import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses
from tests.goldens import load_golden


def check(function, x, out, gradient):
    value, pullback = jax.vjp(function, jnp.asarray(x))
    np.testing.assert_allclose(value, out, rtol=1e-5, atol=1e-6)
    (grad,) = pullback(jnp.ones_like(value))
    np.testing.assert_allclose(grad, gradient, rtol=1e-4, atol=1e-6)


def test_goldens(shared):
    meta, golden = load_golden(shared, "losses")
    checked = 0
    for case in meta["cases"]:
        options = case["params"]

        def array(name, key=case["key"]):
            return golden[f"{key}__{name}"]

        if options.get("reduction") != "none":
            continue
        if case["fn"] == "sigmoid_focal_loss":
            targets = jnp.asarray(array("targets"))

            def run(x, options=options, targets=targets):
                return losses.sigmoid_focal_loss(
                    x, targets, alpha=options["alpha"], gamma=options["gamma"]
                )

            check(run, array("inputs"), array("out"), array("grad_inputs"))
        elif case["key"].startswith("smooth_l1"):
            targets = jnp.asarray(array("target"))

            def run(x, options=options, targets=targets):
                return losses.smooth_l1_loss(x, targets, beta=options["beta"])

            check(run, array("input"), array("out"), array("grad_input"))
        elif case["fn"] == "mmdet.DiceLoss" and not options["naive_dice"]:
            targets = jnp.asarray(array("target"))

            def run(x, options=options, targets=targets):
                dice = losses.dice_loss(jax.nn.sigmoid(x), targets, epsilon=options["eps"])
                return options["loss_weight"] * dice

            check(run, array("pred_logits"), array("out"), array("grad_pred_logits"))
        elif case["fn"] == "generalized_box_iou_loss":
            targets = jnp.asarray(array("boxes2"))

            check(
                functools.partial(losses.giou_loss, targets=targets),
                array("boxes1"),
                array("out"),
                array("grad_boxes1"),
            )
        else:
            continue
        checked += 1
    assert checked >= 8


def test_cross_entropies_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits))
    targets = rng.random((6, 4)).astype(np.float32)
    expected = -targets * np.log(probability) - (1 - targets) * np.log(1 - probability)
    actual = losses.sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    labels = rng.integers(0, 4, 6)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(softmax[np.arange(6), labels])
    actual = losses.softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_extreme_logits_stay_finite():
    logits = jnp.asarray([-1e4, 0.0, 1e4])
    targets = jnp.asarray([1.0, 0.5, 0.0])
    for loss in (losses.sigmoid_cross_entropy, losses.sigmoid_focal_loss):
        value, gradient = jax.value_and_grad(lambda x, f=loss: f(x, targets).sum())(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_l1_is_smooth_l1_without_a_smooth_part():
    value = losses.smooth_l1_loss(jnp.asarray([-2.0, 0.5]), jnp.zeros(2), beta=0.0)
    np.testing.assert_allclose(value, [2.0, 0.5])


def test_giou_of_empty_boxes_is_finite():
    point, box = jnp.asarray([[3.0, 3.0, 3.0, 3.0]]), jnp.asarray([[0.0, 0.0, 6.0, 6.0]])
    for a, b, expected in ((point, point, 1.0), (point, box, 1.0), (box, box, 0.0)):
        value, gradient = jax.value_and_grad(lambda x, b=b: losses.giou_loss(x, b).sum())(a)
        np.testing.assert_allclose(value, expected)
        assert np.isfinite(gradient).all()
