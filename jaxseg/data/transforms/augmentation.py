"""What training may change about an image at random, as frozen choices.

Every change of one image comes in this order: a crop, the choice of a size (`lsj` or one of
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

    min_scale: float = 0.1
    max_scale: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(
                f"lsj: min_scale {self.min_scale} and max_scale {self.max_scale} must be "
                "0 < min_scale <= max_scale"
            )


@dataclasses.dataclass(frozen=True)
class RandomSizeCrop:
    """A random rectangle in place of the image (DETR: Carion et al. 2020, appendix A.4).

    With the shorter side of the image thought resized to one of `shorter`, the rectangle is
    `smallest` to `largest` pixels wide and, drawn apart, as many high, or as large as the image.
    """

    prob: float = 0.5
    resize_to: tuple[int, ...] = (400, 500, 600)
    min_size: int = 384
    max_size: int = 600

    def __post_init__(self) -> None:
        _check_probability("crop: prob", self.prob)
        if not self.resize_to or min(self.resize_to) < 1:
            raise ValueError(f"crop: resize_to {self.resize_to} must be one or more positive sides")
        if not 0 < self.min_size <= self.max_size:
            raise ValueError(
                f"crop: min_size {self.min_size} and max_size {self.max_size} must be "
                "0 < min_size <= max_size"
            )


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Simple Copy-Paste (Ghiasi et al. 2021, section 3), best together with `lsj`.

    Some objects of another image of the split, 1 to all of them, are pasted where they lie on
    their own canvas; edges are not blended. Masks and boxes of objects beneath become what is
    visible. Crowds are not pasted.
    """

    prob: float = 0.5
    min_visible_fraction: float = 0.1
    """An object beneath is dropped if less than this share of its pixels stays visible."""

    def __post_init__(self) -> None:
        _check_probability("copy_paste: prob", self.prob)
        _check_probability("copy_paste: min_visible_fraction", self.min_visible_fraction)


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

    hflip_prob: float = 0.5
    """Probability of a horizontal flip."""
    min_sizes: tuple[int, ...] = ()
    """Shorter sides, of which each image takes one in place of `resize`'s, which is the largest
    (multi-scale training as in Detectron2 and MMDetection: 640 to 800 by 32)."""
    lsj: ScaleJitter | None = None
    """Large-scale jitter, in place of `resize` and `scales`."""
    crop: RandomSizeCrop | None = None
    copy_paste: CopyPaste | None = None
    color: ColorJitter | None = None

    def __post_init__(self) -> None:
        _check_probability("augmentation: hflip_prob", self.hflip_prob)
        if self.min_sizes and min(self.min_sizes) < 1:
            raise ValueError(f"augmentation: min_sizes {self.min_sizes} must be positive sides")
        if self.min_sizes and self.lsj:
            raise ValueError(
                "augmentation: min_sizes and lsj both say how large an image becomes; leave one out"
            )


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not between 0 and 1")
