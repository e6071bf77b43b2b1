"""Optimiser and learning-rate schedule from one frozen config."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum or AdamW, linear warm-up, then a decay.

    The decay is `cosine` or `linear` to zero at the last step, `steps` (times `drop` at each
    milestone, given in steps) or `constant`.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.02
    warmup_steps: int = 500
    warmup_factor: float = 0.001
    """The learning rate at step 0, as a share of `learning_rate`."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    """For SGD it is added to the gradient (L2), for AdamW it is decoupled."""
    decay_norm_and_bias: bool = False
    """What `weight_decay` shrinks: matrices and kernels, or biases and normalisation too, as
    torchvision's and MMDetection's recipes do."""
    grad_clip_norm: float | None = 10.0
    """Largest global norm of the gradient; None leaves it as it is."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_steps", "warmup_factor", "momentum", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer: {name} {getattr(self, name)} must not be negative")
        if self.grad_clip_norm is not None and self.grad_clip_norm <= 0:
            raise ValueError(
                f"optimizer: grad_clip_norm {self.grad_clip_norm} must be above 0, or None"
            )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate at each step of a run of `steps` steps."""
    after_warmup = max(steps - config.warmup_steps, 1)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(config.learning_rate, after_warmup)
    elif config.schedule == "linear":
        decay = optax.linear_schedule(config.learning_rate, 0.0, after_warmup)
    elif config.schedule == "step":
        at = {milestone - config.warmup_steps: config.gamma for milestone in config.milestones}
        decay = optax.piecewise_constant_schedule(config.learning_rate, at)
    else:
        decay = optax.constant_schedule(config.learning_rate)
    start = config.warmup_factor * config.learning_rate
    warmup = optax.linear_schedule(start, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip, then SGD or AdamW with the schedule of `make_schedule`."""
    schedule = make_schedule(config, steps)
    clip = optax.identity()
    if config.grad_clip_norm is not None:
        clip = optax.clip_by_global_norm(config.grad_clip_norm)
    mask = None if config.decay_norm_and_bias else _is_kernel
    if config.name == "adamw":
        adamw = optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)
        return optax.chain(clip, adamw)
    decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
    return optax.chain(clip, decay, optax.sgd(schedule, momentum=config.momentum))


def _is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
