"""Masks as run lengths and polygons."""
