"""One training step, the same on one device and on many, in one piece and in several.

A model's losses come as sums and weights. The step adds both over all devices and divides
once, so that a device that happens to hold few objects counts for no more than it should.

Terms:
    piece      a part of a device's images that is computed at once. With several, the gradients
               of all are added before the parameters change (gradient accumulation)
    shadow     a moving average of the parameters, `TrainState.ema`
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxseg.model import BATCH_AXIS, Model, Variables
from jaxseg.types import Batch, LossTerm

Metrics = dict[str, Float[Array, ""]]
Weights = dict[str, Float[Array, ""]]


class TrainState(NamedTuple):
    """All that a run carries from one step to the next."""

    step: Int[Array, ""]
    params: Any
    model_state: Variables
    """The model's other collections, such as running statistics."""
    opt_state: optax.OptState
    ema: Any = None
    """The moving average of `params`, where the run keeps one."""


def init_variables(model: Model, image_shape: tuple[int, ...], seed: int) -> Variables:
    """The model's random variables of a seed."""
    return jax.jit(model.init, static_argnums=1)(jax.random.key(seed), image_shape)


def init_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step of a run from random variables."""
    return start_state(init_variables(model, image_shape, seed), optimizer, ema=ema)


def start_state(
    variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """The state at step 0 of a run that starts from `variables`."""
    model_state = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    # A copy: the same buffer twice in a state could not be donated.
    shadow = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params), shadow)


def make_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    pieces: int = 1,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A step for one device's share of the batch, to run where `BATCH_AXIS` is mapped.

    Its metrics are the terms, the sum `loss` of those that are learned, and `grad_norm` (before
    clipping), the same on every device. If the loss or the norm is not finite, only the number of
    the step changes in the state.
    """

    def objective(
        params: Any, model_state: Variables, batch: Batch, key: Array, weights: Weights | None
    ) -> tuple[Array, tuple]:
        terms, model_state = model.loss({"params": params, **model_state}, batch, key)
        if weights is None:
            weights = _psum({name: term.weight for name, term in terms.items()})
        # Each piece differentiates its own share of the global mean; the shares add up.
        shares = {name: _share(term, weights[name]) for name, term in terms.items()}
        learned = [share for name, share in shares.items() if terms[name].scale]
        loss = sum(learned, jnp.zeros(()))
        return loss, (shares | {"loss": loss}, model_state)

    gradient = jax.grad(objective, has_aux=True)

    def in_pieces(state: TrainState, batch: Batch, key: Array) -> tuple[Any, tuple]:
        """Gradients, shares and model state of all pieces: their weights come first, since each
        share is divided by those of all. What no weight depends on is not computed twice."""
        parts = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)

        def weigh(part: Batch) -> Weights:
            terms, _ = model.loss({"params": state.params, **state.model_state}, part, key)
            return {name: term.weight for name, term in terms.items()}

        weights = _psum(jax.tree.map(jnp.sum, jax.lax.map(weigh, parts)))

        def add(carry: tuple, part: Batch) -> tuple[tuple, None]:
            grads, shares, model_state = carry
            more, (more_shares, model_state) = gradient(
                state.params, model_state, part, key, weights
            )
            sums = jax.tree.map(jnp.add, (grads, shares), (more, more_shares))
            return (*sums, model_state), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, state.params, state.model_state, first, key, weights)
        grads, shares = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0])
        )
        (grads, shares, model_state), _ = jax.lax.scan(
            add, (grads, shares, state.model_state), parts
        )
        return grads, (shares, model_state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if pieces > 1:
            grads, (shares, model_state) = in_pieces(state, batch, key)
        else:
            grads, (shares, model_state) = gradient(
                state.params, state.model_state, batch, key, None
            )
        grads, metrics = _psum((grads, shares))
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state._replace(params=params, model_state=model_state, opt_state=opt_state)
        if ema_decay is not None:
            new = new._replace(ema=_move(state.ema, params, ema_decay, state.step))
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        return kept._replace(step=state.step + 1), metrics

    return step


def _psum(tree: Any) -> Any:
    return jax.lax.psum(jax.lax.stop_gradient(tree), BATCH_AXIS)


def _share(term: LossTerm, weight: Float[Array, ""]) -> Float[Array, ""]:
    """This piece's part of the term's mean; nothing where nothing was weighed."""
    weight = jax.lax.stop_gradient(weight) + term.offset
    return (term.scale or 1) * term.total / jnp.where(weight > 0, weight, 1)


def _move(shadow: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """The average moved on by one step. Early in a run it is short, so that the random start is
    soon forgotten (TensorFlow's ExponentialMovingAverage with `num_updates`)."""
    kept = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
    return jax.tree.map(lambda s, p: (kept * s + (1 - kept) * p).astype(s.dtype), shadow, params)
