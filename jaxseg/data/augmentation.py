"""What training may change about an image at random, as frozen choices."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training images."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
