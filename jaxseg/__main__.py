"""Runs the program `jaxseg` as `python -m jaxseg`."""

import sys

from jaxseg.commands.cli import main

sys.exit(main())
