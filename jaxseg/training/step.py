"""One training step, the same on one device and on many.

A model's losses come as sums and weights. The step adds both over all devices and divides
once, so that a device that happens to hold few objects counts for no more than it should.
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


class TrainState(NamedTuple):
    """All that a run carries from one step to the next."""

    step: Int[Array, ""]
    params: Any
    model_state: Variables
    """The model's other collections, such as running statistics."""
    opt_state: optax.OptState


def init_variables(model: Model, image_shape: tuple[int, ...], seed: int) -> Variables:
    """The model's random variables of a seed."""
    return jax.jit(model.init, static_argnums=1)(jax.random.key(seed), image_shape)


def init_state(
    model: Model, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...], seed: int
) -> TrainState:
    """The state before the first step of a run from random variables."""
    return start_state(init_variables(model, image_shape, seed), optimizer)


def start_state(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state at step 0 of a run that starts from `variables`."""
    model_state = {name: value for name, value in variables.items() if name != "params"}
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))


def make_step(
    model: Model, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A step for one device's share of the batch, to run where `BATCH_AXIS` is mapped.

    Its metrics are the terms, the sum `loss` of those that are learned, and `grad_norm` (before
    clipping), the same on every device.
    """

    def objective(params: Any, state: TrainState, batch: Batch) -> tuple[Array, tuple]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        terms, model_state = model.loss({"params": params, **state.model_state}, batch, key)
        # Each device differentiates its own share of the global mean; the shares add up.
        shares = {name: _share(term) for name, term in terms.items()}
        learned = [share for name, share in shares.items() if terms[name].scale]
        loss = sum(learned, jnp.zeros(()))
        return loss, (shares | {"loss": loss}, model_state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient = jax.grad(objective, has_aux=True)
        grads, (shares, model_state) = gradient(state.params, state, batch)
        grads, metrics = jax.lax.psum((grads, shares), BATCH_AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {
            "grad_norm": optax.tree.norm(grads),
        }
        return TrainState(state.step + 1, params, model_state, opt_state), metrics

    return step


def _share(term: LossTerm) -> Float[Array, ""]:
    """This device's part of the term's mean; nothing where nothing was weighed."""
    weight = jax.lax.psum(jax.lax.stop_gradient(term.weight), BATCH_AXIS) + term.offset
    return (term.scale or 1) * term.total / jnp.where(weight > 0, weight, 1)
