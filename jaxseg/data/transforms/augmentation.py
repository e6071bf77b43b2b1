"""Settings of the random changes of training images, as frozen dataclasses.

An image is cropped, resized (by `lsj` or to one of `min_sizes`) and flipped; the three are one
`jaxseg.data.transforms.view.View`, so pixels are resampled once. Then objects of a second image,
which has a view of its own, are pasted onto it. Its colours change last. Each augmentation draws
from a generator of its own, so switching one on or off does not change the draws of the others.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021, section 3; drawn as in Detectron2's `ResizeScale`).

    The image is scaled by a factor drawn uniformly from `min_scale` to `max_scale`, where 1 is the
    largest size that fits into the bucket. If it becomes larger than the bucket, a random part of
    it is cropped; if it becomes smaller, the rest is padding.
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
    """A random crop of random size (DETR: Carion et al. 2020, appendix A.4).

    Sizes are in pixels of the image with its shorter side resized to one of `resize_to`, drawn for
    each image. The width and, independently, the height of the crop are drawn from `min_size` to
    `max_size`; each is at most that of the image.
    """

    prob: float = 0.5
    resize_to: tuple[int, ...] = (400, 500, 600)
    min_size: int = 384
    max_size: int = 600

    def __post_init__(self) -> None:
        _check_probability("crop: prob", self.prob)
        if not self.resize_to or min(self.resize_to) < 1:
            raise ValueError(f"crop: resize_to {self.resize_to} must be one or more positive sizes")
        if not 0 < self.min_size <= self.max_size:
            raise ValueError(
                f"crop: min_size {self.min_size} and max_size {self.max_size} must be "
                "0 < min_size <= max_size"
            )


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Simple Copy-Paste (Ghiasi et al. 2021, section 3), best together with `lsj`.

    A random subset, 1 to all, of the objects of another image of the split is pasted at their
    positions in their own padded image, without blending of edges. Masks and boxes of the objects
    below are reduced to their visible pixels. Crowds are not pasted.
    """

    prob: float = 0.5
    min_visible_fraction: float = 0.1
    """An object below is dropped if less than this fraction of its pixels stays visible."""

    def __post_init__(self) -> None:
        _check_probability("copy_paste: prob", self.prob)
        _check_probability("copy_paste: min_visible_fraction", self.min_visible_fraction)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue (torchvision's `ColorJitter`; Howard 2013).

    The first three are factors, uniform in `[1 - x, 1 + x]`; `hue` is a fraction of the colour
    circle, uniform in `[-x, x]`. All are linear in the colour and make one matrix. Unlike in
    torchvision nothing is rounded or clipped between them, so their order does not matter, and
    the hue rotates about the axis of greys in YIQ (Haeberli 1993) instead of in HSV.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05

    def __post_init__(self) -> None:
        for name, limit in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ValueError(f"color: {name} {value} must be between 0 and {limit}")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; None switches a change off."""

    hflip_prob: float = 0.5
    """Probability of a horizontal flip."""
    min_sizes: tuple[int, ...] = ()
    """Lengths of the shorter side, one of which is drawn for each image in place of
    `DataConfig.min_size`, which none may exceed (multi-scale training as in Detectron2 and
    MMDetection: 640 to 800 in steps of 32)."""
    lsj: ScaleJitter | None = None
    """Large-scale jitter, in place of `DataConfig.min_size`, `max_size`; excludes `min_sizes`."""
    crop: RandomSizeCrop | None = None
    copy_paste: CopyPaste | None = None
    color: ColorJitter | None = None

    def __post_init__(self) -> None:
        _check_probability("augmentation: hflip_prob", self.hflip_prob)
        if self.min_sizes and min(self.min_sizes) < 1:
            raise ValueError(f"augmentation: min_sizes {self.min_sizes} must be positive sizes")
        if self.min_sizes and self.lsj:
            raise ValueError(
                f"augmentation: min_sizes {self.min_sizes} and lsj both set the size of an image; "
                "set only one of them"
            )


def _check_probability(name: str, value: float) -> None:
    """Raise ValueError unless a value is between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} must be between 0 and 1")
