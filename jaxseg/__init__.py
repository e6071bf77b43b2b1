"""jaxseg: instance segmentation in JAX, as pure functions."""
