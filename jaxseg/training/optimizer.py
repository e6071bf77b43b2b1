"""The optimiser and learning-rate schedule of one frozen config."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Settings of SGD with momentum or AdamW: a linear warm-up, then a schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The optimiser."""
    learning_rate: float = 0.02
    """Learning rate after the warm-up (Detectron2 SOLVER.BASE_LR)."""
    warmup_steps: int = 500
    """Steps of the linear warm-up (Detectron2 SOLVER.WARMUP_ITERS)."""
    warmup_factor: float = 0.001
    """Learning rate at step 0, as a fraction of learning_rate (Detectron2 SOLVER.WARMUP_FACTOR)."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """After the warm-up: cosine or linear to 0 at the last step, step (see gamma), or constant."""
    milestones: tuple[int, ...] = ()
    """Steps at which the schedule "step" changes the learning rate (Detectron2 SOLVER.STEPS)."""
    gamma: float = 0.1
    """Factor of the learning rate at each milestone (Detectron2 SOLVER.GAMMA)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay: added to the gradient (L2) by SGD, decoupled in AdamW."""
    decay_norm_and_bias: bool = False
    """Decay normalisation and biases too, as the recipes of torchvision and MMDetection do."""
    grad_clip_norm: float | None = 10.0
    """Largest global norm of the gradient; None does not clip."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_steps", "warmup_factor", "momentum", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer: {name} {getattr(self, name)} must not be negative")
        if self.grad_clip_norm is not None and self.grad_clip_norm <= 0:
            raise ValueError(
                f"optimizer: grad_clip_norm {self.grad_clip_norm} must be above 0, or None"
            )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return the schedule: from a step to its learning rate, for a run of `steps` steps."""
    after_warmup = max(steps - config.warmup_steps, 1)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(config.learning_rate, after_warmup)
    elif config.schedule == "linear":
        decay = optax.linear_schedule(config.learning_rate, 0.0, after_warmup)
    elif config.schedule == "step":
        # join_schedules counts the steps of each part from that part's start.
        factors = {step - config.warmup_steps: config.gamma for step in config.milestones}
        decay = optax.piecewise_constant_schedule(config.learning_rate, factors)
    else:
        decay = optax.constant_schedule(config.learning_rate)
    start = config.warmup_factor * config.learning_rate
    warmup = optax.linear_schedule(start, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """Return gradient clipping, then SGD or AdamW with the schedule of `make_schedule`.

    Its `update` takes the number of the step as `step`. Optax's own schedules count their updates,
    and so would lag behind after a step that is not applied.
    """
    clip = optax.identity()
    if config.grad_clip_norm is not None:
        clip = optax.clip_by_global_norm(config.grad_clip_norm)
    mask = None if config.decay_norm_and_bias else _is_kernel
    if config.name == "adamw":
        rule = optax.adamw(1.0, weight_decay=config.weight_decay, mask=mask)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
        rule = optax.chain(decay, optax.sgd(1.0, momentum=config.momentum))
    return _scheduled(optax.chain(clip, rule), make_schedule(config, steps))


def _scheduled(
    optimizer: optax.GradientTransformation, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Multiply the updates of an optimiser with a learning rate of 1 by that of the step."""

    def update(
        grads: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        step: Int[ArrayLike, ""],
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        # Optax mixes integer counts with floats, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, params)
            rate = schedule(step)
            return jax.tree.map(lambda u: (rate * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _is_kernel(params: optax.Params) -> optax.Params:
    """Return True for arrays of two or more axes: neither biases nor scales of normalisation."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
