"""Masks as run lengths and polygons, and their rasterisation."""
