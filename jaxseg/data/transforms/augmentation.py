"""What training may change about an image at random, as frozen choices.

Every change of one image comes in this order: a crop, the choice of a size (`jitter` or one of
`scales`), a flip; they make one `View`, and the image is resized once. Objects of a second
image, which has a view of its own, are pasted over it; its colours are changed last. Each
augmentation draws from a generator of its own, so that one does not change what another draws.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021, section 3; drawn as in Detectron2's `ResizeScale`).

    The image becomes `low` to `high` times as large, uniformly drawn, as it were to just fit into
    the canvas; of what is larger than the canvas, a random part is seen. What the image does
    not reach is padding.
    """

    low: float = 0.1
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"jitter: low {self.low} and high {self.high} must be 0 < low <= high")


@dataclasses.dataclass(frozen=True)
class Crop:
    """A random rectangle in place of the image (DETR: Carion et al. 2020, appendix A.4).

    With the shorter side of the image thought resized to one of `shorter`, the rectangle is
    `smallest` to `largest` pixels wide and, drawn apart, as many high, or as large as the image.
    """

    probability: float = 0.5
    shorter: tuple[int, ...] = (400, 500, 600)
    smallest: int = 384
    largest: int = 600

    def __post_init__(self) -> None:
        _check_probability("crop: probability", self.probability)
        if not self.shorter or min(self.shorter) < 1:
            raise ValueError(f"crop: shorter {self.shorter} must be one or more positive sides")
        if not 0 < self.smallest <= self.largest:
            raise ValueError(
                f"crop: smallest {self.smallest} and largest {self.largest} must be "
                "0 < smallest <= largest"
            )


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Simple Copy-Paste (Ghiasi et al. 2021, section 3), best together with `jitter`.

    Some objects of another image of the split, 1 to all of them, are pasted where they lie on
    their own canvas; edges are not blended. Masks and boxes of objects beneath become what is
    visible. Crowds are not pasted.
    """

    probability: float = 0.5
    least_visible: float = 0.1
    """An object beneath is dropped if less than this share of its pixels stays visible."""

    def __post_init__(self) -> None:
        _check_probability("copy_paste: probability", self.probability)
        _check_probability("copy_paste: least_visible", self.least_visible)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue (torchvision's `ColorJitter`; Howard 2013).

    The first three are factors, uniform in `[1 - x, 1 + x]`; `hue` is a share of the colour
    circle, uniform in `[-x, x]`. All are linear in the colour and make one matrix. Unlike in
    torchvision nothing is rounded or cut between them, so that their order does not matter, and
    the hue turns about the axis of greys in YIQ (Haeberli 1993) instead of in HSV.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ValueError(f"color: {name} {value} is not between 0 and {most}")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; None leaves a change out."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    scales: tuple[int, ...] = ()
    """Shorter sides, of which each image takes one in place of `resize`'s, which is the largest
    (multi-scale training as in Detectron2 and MMDetection: 640 to 800 by 32)."""
    jitter: ScaleJitter | None = None
    """Large-scale jitter, in place of `resize` and `scales`."""
    crop: Crop | None = None
    copy_paste: CopyPaste | None = None
    color: ColorJitter | None = None

    def __post_init__(self) -> None:
        _check_probability("augmentation: flip", self.flip)
        if self.scales and min(self.scales) < 1:
            raise ValueError(f"augmentation: scales {self.scales} must be positive sides")
        if self.scales and self.jitter:
            raise ValueError(
                "augmentation: scales and jitter both say how large an image becomes; leave one out"
            )


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not between 0 and 1")
