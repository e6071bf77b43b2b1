"""Ahead-of-time compilation for devices that are described: the parts of `scripts/compile_for`."""
