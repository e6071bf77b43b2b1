"""One training step, the same on one device and on many, with and without gradient accumulation.

A model's losses are sums and counts. The step adds both over all devices and divides once, so
that a device with few objects has no more influence than it should.

Terms:
    microbatch  a part of a device's images that is computed at once. With several, the gradients
                of all are added before the parameters change (gradient accumulation)
    contribution
                one microbatch's part of a global mean; the contributions add up to it
    ema         exponential moving average of the parameters
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxseg.model import BATCH_AXIS, Model, Variables
from jaxseg.parallel import Step
from jaxseg.types import Average, Batch, Losses, LossTerm

Metrics = dict[str, Float[Array, ""]]
Counts = dict[str, Float[Array, ""]]
GradReduceDtype = Literal["float32", "bfloat16"]


class TrainState(NamedTuple):
    """Everything that a run carries from one step to the next."""

    step: Int[Array, ""]
    params: Any
    model_state: Variables
    """The model's other collections, such as running statistics."""
    opt_state: optax.OptState
    ema: Any = None
    """The EMA of `params`, where the run keeps one."""


def init_variables(model: Model, image_shape: tuple[int, ...], seed: int) -> Variables:
    """Return the model's random variables of a seed."""

    def init(key: Array) -> Variables:
        # Values made of Python's numbers are weakly typed at first and no longer after a step,
        # which would compile the step twice.
        variables = model.init(key, image_shape)
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), variables)

    return jax.jit(init)(jax.random.key(seed))


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    *,
    ema: bool = False,
) -> TrainState:
    """Return the state before the first step of a run from random variables."""
    return start_state(init_variables(model, image_shape, seed), optimizer, ema=ema)


def start_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Return the state at step 0 of a run that starts from `variables`."""
    model_state = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    # A copy: a state that holds the same buffer twice could not be donated.
    ema_params = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), ema_params
    )


def total_loss(losses: Losses) -> Float[Array, ""]:
    """Return the number to minimise: the sum of the weighted terms, each divided by its count.

    For a training loop of your own on one device, whose batch is whole. `make_step` is for several
    devices and microbatches, where the counts are added up first. Outside of it, models with
    `norm="sync_batch"` need `jax.vmap` or `jax.shard_map` over the axis `jaxseg.model.BATCH_AXIS`.
    """
    contributions = [_loss_contribution(term, term.count) for term in losses.terms.values()]
    return sum(contributions, jnp.zeros(()))


def make_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    grad_accum_steps: int = 1,
    ema_decay: float | None = None,
    grad_reduce_dtype: GradReduceDtype = "float32",
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Make the step for one device's share of the batch, to run where `BATCH_AXIS` is mapped.

    Its metrics are the weighted loss terms, their sum `loss`, the model's metrics, and `grad_norm`
    (before clipping), the same on every device. If the loss or the norm is not finite, only the
    number of the step changes in the state. The gradients of several devices are added in
    `grad_reduce_dtype`.
    """

    def objective(
        params: Any, model_state: Variables, batch: Batch, key: Array, counts: Counts | None
    ) -> tuple[Array, tuple]:
        losses = model.loss({"params": params, **model_state}, batch, key)
        if counts is None:
            counts = _psum(_counts(losses))
        # Each microbatch differentiates its contribution to the global mean.
        terms = {n: _loss_contribution(term, counts[n]) for n, term in losses.terms.items()}
        metrics = {n: _contribution(metric, counts[n]) for n, metric in losses.metrics.items()}
        loss = sum(terms.values(), jnp.zeros(()))
        return loss, (terms | metrics | {"loss": loss}, losses.state)

    gradient = jax.grad(objective, has_aux=True)
    update = optax.with_extra_args_support(optimizer).update

    def accumulate(state: TrainState, batch: Batch, key: Array) -> tuple[Any, tuple]:
        """Return the sums of gradients and metric contributions, and the model state after all.

        The counts are computed first, since each contribution is divided by those of all
        microbatches. XLA removes everything that no count depends on from that pass.
        """
        microbatches = jax.tree.map(lambda x: x.reshape(grad_accum_steps, -1, *x.shape[1:]), batch)

        def count(microbatch: Batch) -> Counts:
            losses = model.loss({"params": state.params, **state.model_state}, microbatch, key)
            return _counts(losses)

        counts = _psum(jax.tree.map(jnp.sum, jax.lax.map(count, microbatches)))

        def add(carry: tuple, microbatch: Batch) -> tuple[tuple, None]:
            grads, metrics, model_state = carry
            more, (more_metrics, model_state) = gradient(
                state.params, model_state, microbatch, key, counts
            )
            sums = jax.tree.map(jnp.add, (grads, metrics), (more, more_metrics))
            return (*sums, model_state), None

        first = jax.tree.map(lambda x: x[0], microbatches)
        shapes = jax.eval_shape(gradient, state.params, state.model_state, first, key, counts)
        grads, metrics = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0])
        )
        (grads, metrics, model_state), _ = jax.lax.scan(
            add, (grads, metrics, state.model_state), microbatches
        )
        return grads, (metrics, model_state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if grad_accum_steps > 1:
            grads, (metrics, model_state) = accumulate(state, batch, key)
        else:
            grads, (metrics, model_state) = gradient(
                state.params, state.model_state, batch, key, None
            )
        sent = grads
        if jax.lax.axis_size(BATCH_AXIS) > 1:  # one device sends nothing, so nothing is rounded
            sent = jax.tree.map(lambda x: x.astype(grad_reduce_dtype), grads)
        sent, metrics = _psum((sent, metrics))
        grads = jax.tree.map(lambda x, like: x.astype(like.dtype), sent, grads)
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])

        def new_state(state: TrainState, model_state: Variables, grads: Any) -> TrainState:
            updates, opt_state = update(grads, state.opt_state, state.params, step=state.step)
            params = optax.apply_updates(state.params, updates)
            new = state._replace(params=params, model_state=model_state, opt_state=opt_state)
            if ema_decay is not None:
                new = new._replace(ema=update_ema(state.ema, params, ema_decay, state.step))
            return new

        def with_cond(finite: Array, *arguments: Any) -> TrainState:
            return jax.lax.cond(finite, new_state, lambda state, *_: state, *arguments)

        def with_where(finite: Array, state: TrainState, *others: Any) -> TrainState:
            new = new_state(state, *others)
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)

        # XLA's CPU compiler copies what it still reads of the old state while it replaces it: in a
        # conditional it does so there, without one when the step begins.
        kept = jax.lax.platform_dependent(
            finite, state, model_state, grads, cpu=with_cond, default=with_where
        )
        return kept._replace(step=state.step + 1), metrics

    return step


def _psum(tree: Any) -> Any:
    """Return the sum over devices; of a single one `tree` itself, since XLA would copy it."""
    if jax.lax.axis_size(BATCH_AXIS) == 1:
        return jax.lax.stop_gradient(tree)
    return jax.lax.psum(jax.lax.stop_gradient(tree), BATCH_AXIS)


def _counts(losses: Losses) -> Counts:
    """Return the counts of all terms and metrics by name."""
    both: dict[str, Any] = {**losses.terms, **losses.metrics}
    if len(both) < len(losses.terms) + len(losses.metrics):
        shared = sorted(losses.terms.keys() & losses.metrics.keys())
        raise ValueError(f"loss terms and metrics share the names {', '.join(shared)}")
    return {name: value.count for name, value in both.items()}


def _contribution(value: LossTerm | Average, count: Float[Array, ""]) -> Float[Array, ""]:
    """Divide this microbatch's total by the global count; 0 where nothing was counted."""
    return value.total / jnp.where(count > 0, count, 1)


def _loss_contribution(term: LossTerm, count: Float[Array, ""]) -> Float[Array, ""]:
    """Return this microbatch's contribution to the weighted term."""
    return term.weight * _contribution(term, jax.lax.stop_gradient(count) + term.offset)


def update_ema(ema_params: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """Return the EMA after one step: `decay * ema_params + (1 - decay) * params`.

    Early in a run the decay is lower, so that the initial parameters soon lose their weight
    (TensorFlow's ExponentialMovingAverage with `num_updates`).
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(
        lambda e, p: (kept * e + (1 - kept) * p).astype(e.dtype), ema_params, params
    )


def share_notice(step: Step) -> Step:
    """Return a training step that also returns whether any process has a notice.

    It takes `(batch, flags)`, the flags being whether this process has a notice, int32 `[B]`, and
    returns `(state, (metrics, flag))`. The flags are part of the step, since two programs with
    collectives, in flight at once, could be mixed up by the processes (on CPUs they are).
    """

    def step_with_notice(state: Any, batch_and_flags: Any) -> tuple[Any, Any]:
        batch, flags = batch_and_flags
        state, metrics = step(state, batch)
        return state, (metrics, jax.lax.pmax(flags.max(), BATCH_AXIS))

    return step_with_notice
