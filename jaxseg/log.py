"""Messages of a run."""

import sys

from jaxseg.distributed import process_index


def say(text: str) -> None:
    """A message of the run beside its progress lines, from the first host."""
    if process_index() == 0:
        print(text, file=sys.stderr, flush=True)
