"""Naive NumPy versions of the ops: plain loops that follow the definitions word by word."""
