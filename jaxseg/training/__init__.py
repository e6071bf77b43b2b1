"""Training of any `jaxseg.model.Model`: optimiser, step, loop, checkpoints, preemption."""
