"""What the groups of measurements share in one run."""

from typing import NamedTuple

from jaxseg.bench.models import Models
from jaxseg.bench.peer import Peer
from jaxseg.bench.settings import Settings


class Context(NamedTuple):
    settings: Settings
    models: Models
    peer: Peer | None
    """torchvision, where it can be imported."""
