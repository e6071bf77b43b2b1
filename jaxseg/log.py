"""Messages of a run."""

import sys

from jaxseg.distributed import host_index


def say(text: str) -> None:
    """A message of the run beside its progress lines, from the first host."""
    if host_index() == 0:
        print(text, file=sys.stderr, flush=True)
