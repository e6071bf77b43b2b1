import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.model import BATCH_AXIS, Model
from jaxseg.parallel import check_batch_size, pmap_step, replicate, shard_map_step
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from jaxseg.training.step import init_state, make_step, start_state, total_loss
from jaxseg.types import Average, Losses, LossTerm, TargetSpec
from tests.tiny import (
    make_batch,
    tiny_config,
    tiny_panoptic_fpn_config,
    tiny_point_rend_config,
    tiny_solov2_config,
    toy_model,
)

FROZEN_STAGE = 2
"""The backbone's first stage, as in the published settings."""


@pytest.fixture(
    scope="module",
    params=[
        tiny_config,
        pytest.param(tiny_solov2_config, marks=pytest.mark.slow),
        pytest.param(tiny_panoptic_fpn_config, marks=pytest.mark.slow),
        pytest.param(tiny_point_rend_config, marks=pytest.mark.slow),
    ],
)
def stepped(request):
    """One step of the same state on the same global batch, on 1 and on 2 devices.

    The devices hold 5 and 0 objects; batch norm runs over both.
    """
    config = request.param(norm="sync_batch")
    backbone = dataclasses.replace(config.backbone, freeze_at=FROZEN_STAGE)
    model = dataclasses.replace(config, backbone=backbone).build()
    optimizer = make_optimizer(OptimizerConfig(decay_norm_and_bias=True, warmup_steps=0), 10)
    sizes = [(64, 64), (50, 64), (64, 40), (64, 64)]
    batch = make_batch(sizes, [3, 2, 0, 0], targets=model.targets)
    start = jax.tree.map(np.asarray, init_state(model, optimizer, (1, 64, 64, 3), seed=0))
    results = {"start": start}
    for devices in (1, 2):
        step = pmap_step(make_step(model, optimizer, seed=0), devices)
        state, metrics = step(replicate(start, devices), batch)
        results[devices] = jax.tree.map(np.asarray, (state, metrics))
    with compilations() as compiled:
        for seed in (1, 2):
            sizes = [(64, 64), (8, 20), (33, 64), (64, 7)]
            batch = make_batch(sizes, [0, seed, 6, 1], seed=seed, targets=model.targets)
            state, _ = step(state, batch)
    results["compiled again"] = len(compiled)
    return results


@contextlib.contextmanager
def compilations():
    """A list that grows by one entry whenever XLA compiles something."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(np.ones(3))
        assert events, "JAX reports compilations under another name"
        events.clear()
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_step_is_compiled_once(stepped):
    assert stepped["compiled again"] == 0


def test_one_and_two_devices_make_the_same_step(stepped):
    (one, metrics_one), (two, metrics_two) = stepped[1], stepped[2]
    for name, value in metrics_one.items():
        np.testing.assert_allclose(value, metrics_two[name], rtol=1e-4, err_msg=name)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_changes_all_parameters_and_statistics_but_the_frozen_ones(stepped):
    before, (after, _) = stepped["start"], stepped[2]
    moved = {
        jax.tree_util.keystr(path): not np.array_equal(a, b)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path((before.params, before.model_state)),
            jax.tree.leaves((after.params, after.model_state)),
            strict=True,
        )
    }
    frozen = {name for name in moved if f"stage{FROZEN_STAGE}" in name}
    assert any("batch_stats" in name for name in frozen)
    assert any("frozen" in name for name in frozen)
    assert {name for name, has_moved in moved.items() if not has_moved} == frozen
    assert int(after.step) == 1


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size 3 does not divide over 2 devices"):
        check_batch_size(3, 2)
    with pytest.raises(
        ValueError, match="12 does not divide over 2 devices with 4 microbatches each"
    ):
        check_batch_size(12, 2, 4)


@pytest.mark.parametrize("name", ["cosine", "linear", "step", "constant"])
def test_schedules(name):
    config = OptimizerConfig(
        learning_rate=0.5, warmup_steps=10, schedule=name, milestones=(60, 80), warmup_factor=0.1
    )
    schedule = make_schedule(config, 100)
    factors = {0: 0.1, 5: 0.55, 10: 1.0}
    factors[100] = {"cosine": 0.0, "linear": 0.0, "step": 0.01, "constant": 1.0}[name]
    if name != "step":
        factors[55] = 1.0 if name == "constant" else 0.5
    else:
        factors |= {59: 1.0, 61: 0.1}
    for step, factor in factors.items():
        np.testing.assert_allclose(schedule(step), 0.5 * factor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_excludes_vectors_by_default(kind, decayed):
    config = OptimizerConfig(
        name=kind,
        learning_rate=1.0,
        warmup_steps=0,
        schedule="constant",
        decay_norm_and_bias=decayed,
        grad_clip_norm=None,
    )
    shapes = {"kernel": (2, 2), "bias": (2,), "scale": ()}
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    optimizer = make_optimizer(config, 10)
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, step=0)
    assert (np.asarray(updates["kernel"]) < 0).all()
    assert np.asarray(updates["bias"]).any() == decayed
    assert np.asarray(updates["scale"]).any() == decayed


def toy_steps(parallel=pmap_step, devices=1, steps=3, seed=0, batch=None, **options):
    """The state and the metrics after some steps of the toy model."""
    model, optimizer = toy_model(), optax.sgd(0.1, momentum=0.9)
    step = parallel(make_step(model, optimizer, seed, **options), devices)
    ema = "ema_decay" in options
    state = replicate(init_state(model, optimizer, (1, 64, 64, 3), 0, ema=ema), devices)
    batch = (
        make_batch([(64, 64), (8, 64)] * 4, [3, 0, 1, 2, 0, 0, 5, 0]) if batch is None else batch
    )
    trail = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        trail.append(float(state.params["w"]))
    return jax.tree.map(np.asarray, (state, metrics)), trail


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("parallel", [pmap_step, shard_map_step])
@pytest.mark.parametrize("grad_accum_steps", [1, 4])
def test_devices_transforms_and_microbatches_make_the_same_steps(
    parallel, devices, grad_accum_steps
):
    (expected, metrics), _ = toy_steps()
    (state, again), _ = toy_steps(parallel, devices, grad_accum_steps=grad_accum_steps)
    # The running state is each device's own business (batch norm makes it equal), so not compared.
    for a, b in zip(
        jax.tree.leaves((expected.params, expected.opt_state, metrics)),
        jax.tree.leaves((state.params, state.opt_state, again)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert state.step == 3
    assert state.model_state["seen"]["images"] == 3 * 8 / devices


@pytest.mark.parametrize("parallel", [pmap_step, shard_map_step])
def test_gradients_are_added_in_bfloat16_where_asked(parallel):
    """Rounding to 8 bits moves a number by at most 2 ** -9 of it, before and after the sum."""
    update = {}
    for dtype in ("float32", "bfloat16"):
        for devices in (1, 2):
            _, trail = toy_steps(parallel, devices, steps=1, grad_reduce_dtype=dtype)
            update[dtype, devices] = 1.5 - trail[0]
    assert update["bfloat16", 1] == update["float32", 1]
    assert update["bfloat16", 2] != update["float32", 2]
    assert update["bfloat16", 2] == pytest.approx(update["float32", 1], rel=1.1 * 2**-8)


def test_each_step_and_each_seed_draws_anew():
    model, optimizer = toy_model(), optax.sgd(0.0)
    batch = make_batch([(64, 64)] * 2, [3, 1])
    losses = []
    for seed in (0, 1):
        step = pmap_step(make_step(model, optimizer, seed), 1)
        state = replicate(init_state(model, optimizer, (1, 64, 64, 3), 0), 1)
        for _ in range(2):
            state, metrics = step(state, batch)
            losses.append(float(metrics["objects"]))
    assert len(set(losses)) == 4  # the parameters stay, so the random keys alone differ


def test_ema_follows_the_parameters():
    (state, _), trail = toy_steps(steps=20, ema_decay=0.6)
    average = 1.5
    for step, w in enumerate(trail):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
    assert abs(average - trail[-1]) > 1e-3


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_a_step_that_is_not_finite_is_not_applied(grad_accum_steps):
    model, optimizer = toy_model(), optax.sgd(0.1, momentum=0.9)
    step = make_step(model, optimizer, 0, grad_accum_steps=grad_accum_steps, ema_decay=0.5)
    step = pmap_step(step, 2)
    state = replicate(init_state(model, optimizer, (1, 64, 64, 3), 0, ema=True), 2)
    batch = make_batch([(64, 64)] * 4, [1, 2, 3, 0])
    batch = batch._replace(images=batch.images.astype(np.float32))
    state, _ = step(state, batch)
    before = jax.tree.map(np.asarray, state)
    batch.images[1, 5, 5, 0] = np.nan
    state, metrics = step(state, batch)
    assert not np.isfinite(metrics["loss"])
    assert state.step == 2
    jax.tree.map(np.testing.assert_array_equal, state._replace(step=before.step), before)


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_a_finite_loss_with_a_gradient_that_is_not_finite_is_not_applied(grad_accum_steps):
    """The square root is 0 at 0, where it rises without bound."""

    def loss(variables, batch, key):
        total = jnp.sqrt(variables["params"]["w"])
        state = {"seen": {"steps": variables["seen"]["steps"] + 1}}
        return Losses({"root": LossTerm(total, jnp.ones(()))}, {}, state)

    def init(key, _):
        return {"params": {"w": jnp.zeros(())}, "seen": {"steps": jnp.zeros((), jnp.int32)}}

    model, optimizer = Model(init, loss, None, TargetSpec()), optax.sgd(0.1, momentum=0.9)
    step = make_step(model, optimizer, 0, grad_accum_steps=grad_accum_steps, ema_decay=0.5)
    state = replicate(init_state(model, optimizer, (1, 8, 8, 3), 0, ema=True), 1)
    before = jax.tree.map(np.asarray, state)
    state, metrics = pmap_step(step, 1)(state, make_batch([(8, 8)] * 2, [1, 1]))
    assert metrics["loss"] == 0
    assert not np.isfinite(metrics["grad_norm"])
    assert state.step == 1
    jax.tree.map(np.testing.assert_array_equal, state._replace(step=before.step), before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_learning_rate_goes_by_the_step_after_one_that_is_not_applied(name):
    """With clipped constant gradients and no momentum, a change is the learning rate."""
    config = OptimizerConfig(
        name=name, learning_rate=1.0, warmup_steps=0, schedule="linear", momentum=0.0,
        weight_decay=0.0, grad_clip_norm=1.0,
    )  # fmt: skip

    def loss(variables, batch, key):
        w = variables["params"]["w"]
        total = 5 * w + jnp.asarray(batch.images, jnp.float32).sum()
        return Losses({"linear": LossTerm(total, jnp.ones(()))}, {}, {})

    model = Model(lambda key, _: {"params": {"w": jnp.zeros(())}}, loss, None, TargetSpec())
    optimizer, schedule = make_optimizer(config, 10), make_schedule(config, 10)
    step = pmap_step(make_step(model, optimizer, seed=0), 1)
    state = replicate(init_state(model, optimizer, (1, 64, 64, 3), seed=0), 1)
    for number in range(5):
        batch = make_batch([(8, 8)], [1])
        images = batch.images.astype(np.float32)
        images[0, 0, 0, 0] = np.nan if number in (1, 2) else 0
        before = float(state.params["w"])
        state, _ = step(state, batch._replace(images=images))
        expected = 0.0 if number in (1, 2) else -float(schedule(number))
        np.testing.assert_allclose(float(state.params["w"]) - before, expected, rtol=1e-4)


def test_a_term_with_an_offset_and_a_metric():
    def loss(variables, batch, key):
        w = variables["params"]["w"]
        count = jnp.asarray(batch.valid.sum(), jnp.float32)
        terms = {"learned": LossTerm(6 * w, count, weight=2.0, offset=1.0)}
        return Losses(terms, {"logged": Average(100 * w, jnp.ones(()))}, {})

    model = Model(lambda key, _: {"params": {"w": jnp.ones(())}}, loss, None, TargetSpec())
    optimizer = optax.sgd(1.0)
    step = pmap_step(make_step(model, optimizer, seed=0), 2)
    state = replicate(init_state(model, optimizer, (1, 64, 64, 3), seed=0), 2)
    state, metrics = step(state, make_batch([(64, 64)] * 2, [2, 3]))
    # Both devices: 12 w in all, over 2 + 3 + 1 objects, twice.
    np.testing.assert_allclose(metrics["learned"], 2 * 12 / 6)
    np.testing.assert_allclose(metrics["loss"], 2 * 12 / 6)
    np.testing.assert_allclose(metrics["logged"], 100)
    np.testing.assert_allclose(state.params["w"], 1 - 2 * 12 / 6)
    assert metrics["grad_norm"] == 4


def test_a_large_gradient_is_clipped_by_its_norm():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=0, schedule="constant", weight_decay=0.0, grad_clip_norm=0.5
    )
    optimizer = make_optimizer(config, 10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    for grads in ({"a": [3.0], "b": [4.0]}, {"a": [0.03], "b": [0.04]}):
        grads = jax.tree.map(jnp.asarray, {name: np.asarray(g) for name, g in grads.items()})
        updates, _ = optimizer.update(grads, optimizer.init(params), params, step=0)
        norm = float(optax.tree.norm(grads))
        for name, update in updates.items():
            np.testing.assert_allclose(update, -grads[name] * min(1, 0.5 / norm), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_decay_by_more_than_the_clipped_gradient_allows(name):
    """The gradient alone is clipped, as in Detectron2 and MMDetection, not the decay with it."""
    config = OptimizerConfig(
        name=name, learning_rate=1.0, warmup_steps=0, schedule="constant", weight_decay=0.5,
        grad_clip_norm=1e-3,
    )  # fmt: skip
    optimizer = make_optimizer(config, 10)
    params = {"kernel": jnp.full((2, 2), 8.0)}
    updates, _ = optimizer.update(
        {"kernel": jnp.zeros((2, 2))}, optimizer.init(params), params, step=0
    )
    np.testing.assert_allclose(updates["kernel"], -4.0, rtol=1e-5)


def test_total_loss_is_the_loss_of_the_step_on_one_device():
    model, optimizer = toy_model(), optax.sgd(0.1)
    batch = jax.tree.map(jnp.asarray, make_batch([(64, 64), (40, 64)], [3, 0]))
    variables = model.init(jax.random.key(0), (2, 64, 64, 3))
    losses = model.loss(variables, batch, jax.random.fold_in(jax.random.key(5), 0))
    step = jax.vmap(make_step(model, optimizer, 5), in_axes=(None, 0), axis_name=BATCH_AXIS)
    _, metrics = step(start_state(variables, optimizer), jax.tree.map(lambda x: x[None], batch))
    assert float(total_loss(losses)) == pytest.approx(float(metrics["loss"][0]))


def test_total_loss_of_nothing_is_zero():
    nothing = LossTerm(jnp.zeros(()), jnp.zeros(()))
    assert float(total_loss(Losses({"mask": nothing}, {}, {}))) == 0
