"""Names of ResNets: torchvision's, which timm and MMDetection share, and Detectron2's."""

import re
from collections.abc import Iterator

from jaxseg.nn.resnet import BLOCKS, BOTTLENECK_DEPTHS, ResNetConfig
from jaxseg.zoo.engine import CONV, VECTOR, Entry, Path


def norm_entries(name: str, path: Path, kind: str | None) -> Iterator[Entry]:
    """Entries of a normalisation layer; frozen batch norm keeps all four vectors as state."""
    affine = "batch_stats" if kind == "frozen" else "params"
    yield Entry(f"{name}.weight", (affine, *path, "scale"), VECTOR)
    yield Entry(f"{name}.bias", (affine, *path, "bias"), VECTOR)
    if kind != "group":
        yield Entry(f"{name}.running_mean", ("batch_stats", *path, "mean"), VECTOR)
        yield Entry(f"{name}.running_var", ("batch_stats", *path, "var"), VECTOR)


BACKBONE: Path = ("backbone",)
"""Where a model keeps its ResNet."""


def torchvision_resnet(
    config: ResNetConfig, prefix: str = "", root: Path = BACKBONE
) -> Iterator[Entry]:
    """`conv1`, `bn1`, `layer1.0.conv1`, ... `layer1.0.downsample.0`."""
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
    config: ResNetConfig, prefix: str = "", root: Path = BACKBONE
) -> Iterator[Entry]:
    """`stem.conv1`, `stem.conv1.norm`, `res2.0.conv1`, ... `res2.0.shortcut`."""
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
    """Arrays beside a ResNet's own: the classifier, counters, the stated epsilon."""
    return _UNUSED.fullmatch(name) is not None


def _blocks(config: ResNetConfig) -> Iterator[tuple[int, int, int, bool]]:
    """Stage, block, how many convolutions, and whether its shortcut has one."""
    bottleneck = config.depth in BOTTLENECK_DEPTHS
    for stage, count in enumerate(BLOCKS[config.depth], start=2):
        for block in range(count):
            shortcut = block == 0 and (bottleneck or stage > 2)
            yield stage, block, 3 if bottleneck else 2, shortcut
