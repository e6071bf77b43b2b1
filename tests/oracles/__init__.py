"""Naive NumPy versions of the ops: loops that follow the definitions literally."""
