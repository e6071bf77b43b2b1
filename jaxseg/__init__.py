"""jaxseg: instance segmentation in JAX, as pure functions."""

__version__ = "0.1.0"
