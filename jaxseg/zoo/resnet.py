"""ImageNet ResNets: configs, and names of arrays in torchvision, timm, MMDetection, Detectron2."""

import re
from collections.abc import Iterator

from jaxseg.nn.backbone import BackboneConfig
from jaxseg.nn.resnet import BLOCKS, BOTTLENECK_DEPTHS, ResNetConfig
from jaxseg.zoo.engine import CONV, VECTOR, Entry, Path


def norm_entries(name: str, path: Path, kind: str | None) -> Iterator[Entry]:
    """Yield a normalisation layer's entries; frozen batch norm keeps all four vectors as state."""
    affine = "batch_stats" if kind == "frozen" else "params"
    yield Entry(f"{name}.weight", (affine, *path, "scale"), VECTOR)
    yield Entry(f"{name}.bias", (affine, *path, "bias"), VECTOR)
    if kind != "group":
        yield Entry(f"{name}.running_mean", ("batch_stats", *path, "mean"), VECTOR)
        yield Entry(f"{name}.running_var", ("batch_stats", *path, "var"), VECTOR)


BACKBONE: Path = ("backbone",)
"""The path of a model's backbone among its variables."""

RESNETS = {
    "resnet18": ResNetConfig(depth=18),
    "resnet34": ResNetConfig(depth=34),
    "resnet50": ResNetConfig(depth=50),
    "resnet101": ResNetConfig(depth=101),
    "resnext50_32x4d": ResNetConfig(depth=50, groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetConfig(depth=101, groups=32, width_per_group=8),
}
"""ImageNet classifiers of torchvision and timm, by their names there."""


def torchvision_resnet(
    config: BackboneConfig, prefix: str = "", root: Path = BACKBONE
) -> Iterator[Entry]:
    """Yield `conv1`, `bn1`, `layer1.0.conv1`, ... `layer1.0.downsample.0`: also timm, MMDetection.

    Raises ValueError for a backbone that is no ResNet.
    """
    config = _as_resnet(config)
    yield Entry(f"{prefix}conv1.weight", ("params", *root, "stem_conv", "kernel"), CONV)
    yield from norm_entries(f"{prefix}bn1", (*root, "stem_norm"), config.norm)
    for stage, block, convs, shortcut in _blocks(config):
        name, path = f"{prefix}layer{stage - 1}.{block}", (*root, f"stage{stage}_block{block}")
        for n in range(1, convs + 1):
            yield Entry(f"{name}.conv{n}.weight", ("params", *path, f"conv{n}", "kernel"), CONV)
            yield from norm_entries(f"{name}.bn{n}", (*path, f"norm{n}"), config.norm)
        if shortcut:
            kernel = ("params", *path, "shortcut_conv", "kernel")
            yield Entry(f"{name}.downsample.0.weight", kernel, CONV)
            yield from norm_entries(f"{name}.downsample.1", (*path, "shortcut_norm"), config.norm)


def detectron2_resnet(
    config: BackboneConfig, prefix: str = "", root: Path = BACKBONE
) -> Iterator[Entry]:
    """Yield `stem.conv1`, `stem.conv1.norm`, `res2.0.conv1`, ... `res2.0.shortcut`.

    Raises ValueError for a backbone that is no ResNet.
    """
    config = _as_resnet(config)
    stem = f"{prefix}stem.conv1"
    yield Entry(f"{stem}.weight", ("params", *root, "stem_conv", "kernel"), CONV)
    yield from norm_entries(f"{stem}.norm", (*root, "stem_norm"), config.norm)
    for stage, block, convs, shortcut in _blocks(config):
        path = (*root, f"stage{stage}_block{block}")
        layers = [(f"conv{n}", f"conv{n}", f"norm{n}") for n in range(1, convs + 1)]
        layers += [("shortcut", "shortcut_conv", "shortcut_norm")] if shortcut else []
        for layer, conv, norm in layers:
            name = f"{prefix}res{stage}.{block}.{layer}"
            yield Entry(f"{name}.weight", ("params", *path, conv, "kernel"), CONV)
            yield from norm_entries(f"{name}.norm", (*path, norm), config.norm)


_UNUSED = re.compile(r"(.*\.)?num_batches_tracked|(fc|head)\.(weight|bias)|bn_eps")


def is_unused_by_resnet(name: str) -> bool:
    """Return whether an array is not the ResNet's: classifier, counters, the stated epsilon."""
    return _UNUSED.fullmatch(name) is not None


def _as_resnet(config: BackboneConfig) -> ResNetConfig:
    if not isinstance(config, ResNetConfig):
        raise ValueError(f"the names are those of a ResNet, not of a {type(config).__name__}")
    return config


def _blocks(config: ResNetConfig) -> Iterator[tuple[int, int, int, bool]]:
    """Yield stage, block, number of convolutions, and whether its shortcut has one."""
    bottleneck = config.depth in BOTTLENECK_DEPTHS
    for stage, count in enumerate(BLOCKS[config.depth], start=2):
        for block in range(count):
            shortcut = block == 0 and (bottleneck or stage > 2)
            yield stage, block, 3 if bottleneck else 2, shortcut
