"""Runs the program `jaxseg` as `python -m jaxseg`."""

from jaxseg.commands.cli import program

program()
