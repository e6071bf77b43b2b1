"""Flax modules that two or more models share."""
