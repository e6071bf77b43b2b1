"""What is measured, and how large: the settings of one run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

GROUPS = ("ops", "predict", "train", "loader", "evaluation", "compile", "scaling")
"""The groups of measurements, in the order in which they run."""
DEFAULT_GROUPS = GROUPS[:-1]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run; the defaults are those of a machine with a GPU or some patience."""

    groups: tuple[str, ...] = DEFAULT_GROUPS
    models: tuple[str, ...] = (
        "maskrcnn_resnet50_fpn",
        "mmdet_mask_rcnn_r50_fpn",
        "mmdet_solov2_r50_fpn",
    )
    """Names of `jaxseg.zoo.MODELS`. The first is torchvision's own, and timed beside it."""
    size: tuple[int, int] = (800, 1088)
    """`(height, width)` of the images."""
    batch: int = 1
    """Images on one device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps: int = 10
    """Most samples of a case."""
    seconds: float = 60.0
    """Time after which a case takes no further samples."""
    data: pathlib.Path | None = None
    """COCO folder for the loader."""
    out: pathlib.Path | None = None
    plot: pathlib.Path | None = None

    rois: int = 1000
    """Boxes an image that RoIAlign pools."""
    channels: int = 256
    """Channels of the maps that it pools from."""
    candidates: int = 2000
    """Boxes of each level that NMS receives."""
    slots: int = 100
    """Slots for objects, and detections that are pasted and encoded."""
    objects: int = 8
    """Objects of a training image."""
    images: int = 20
    """Images whose detections are evaluated."""
    matmul: int = 4096
    """Side of the square matrices whose product gives the machine's speed."""
    copy_mib: int = 512
    """Size of the array whose copy gives the memory's speed."""
    compiler_options: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """XLA's, for all programs."""


SMALL = Settings(
    models=("small_mask_rcnn",),
    size=(64, 96),
    batch=2,
    steps=2,
    seconds=1.0,
    rois=20,
    channels=8,
    candidates=30,
    slots=10,
    objects=3,
    images=2,
    matmul=256,
    copy_mib=8,
    compiler_options={"xla_backend_optimization_level": 0},
)
"""Tiny models and sizes, which show that everything runs, and whose times mean nothing."""


def make_settings(groups: Sequence[str], *, small: bool = False, **given: Any) -> Settings:
    """Return the settings of a command line; None leaves a setting as it is.

    Raises ValueError for unknown groups and impossible sizes.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(f"unknown group {', '.join(unknown)}: choose from {', '.join(GROUPS)}")
    chosen = {name: value for name, value in given.items() if value is not None}
    if groups:
        chosen["groups"] = tuple(group for group in GROUPS if group in groups)
    settings = dataclasses.replace(SMALL if small else Settings(), **chosen)
    if any(side < 32 or side % 32 for side in settings.size):
        raise ValueError(f"--size {settings.size} must be multiples of 32")
    for name in ("batch", "steps"):
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name} {getattr(settings, name)} must be at least 1")
    return settings
