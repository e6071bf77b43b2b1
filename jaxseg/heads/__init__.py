"""Heads that two or more models share."""
