"""`jaxseg data check`: statistics and issues of a COCO-format folder or a TFDS dataset, as text."""

import collections
import dataclasses
import json
import pathlib
import textwrap
from collections.abc import Collection, Sequence

import numpy as np

from jaxseg.data import CocoFolder, SourceConfig, TfdsFolder
from jaxseg.data.issues import Issue, check_kinds, errors
from jaxseg.data.panoptic import PanopticSource, thing_categories
from jaxseg.data.proposal import Proposal, propose
from jaxseg.data.stats import DatasetStats, SemanticStats, scan_folder
from jaxseg.files import prepare_output_file
from jaxseg.terminal import progress_bar
from jaxseg.types import IGNORED

_MAX_SHOWN = 20
"""Issues of each kind, and groups of identical images, that are printed."""


def report(
    config: CocoFolder | TfdsFolder,
    *,
    split: str | None = None,
    max_objects: int = 100,
    bucket: tuple[int, int] | None = None,
    ignore_issues: Collection[str] = (),
    out: pathlib.Path | None = None,
) -> bool:
    """Print the statistics and issues of a folder, and return whether it has no errors.

    Args:
        config: a COCO-format folder or file, or a TFDS dataset.
        split: the only split to check; all by default.
        max_objects: the objects of an image that training keeps.
        bucket: `(height, width)`, where objects below a pixel are counted.
        ignore_issues: kinds of issues that count as no error, as training ignores them.
        out: a file for all issues, one JSON object per line.
    """
    check_kinds(ignore_issues)
    if max_objects < 1 or (bucket is not None and min(bucket) < 1):
        raise ValueError(f"max_objects {max_objects} and bucket {bucket} must be positive")
    if out is not None:
        prepare_output_file(out)
    with progress_bar("images read") as show_progress:
        splits = scan_folder(
            config,
            split=split,
            max_objects=max_objects,
            bucket=bucket,
            progress=show_progress,
        )
    issues = [issue for stats in splits for issue in stats.issues]
    print("\n\n".join(format_stats(stats, max_objects, bucket) for stats in splits))
    for line in format_shared_images(splits):
        print(line)
    if out is not None:
        out.write_text("".join(json.dumps(issue._asdict()) + "\n" for issue in issues))
        print(f"\n{len(issues)} issues are listed in {out}")
    found = errors(issues, ignore_issues)
    note = ", not counting ignored issues" if ignore_issues else ""
    lost = sum(issue.kind == "box-zero" for issue in issues)
    lines = [f"errors: {len(found) or 'none'}{note}"]
    lines += [f"objects that training skips, with boxes without area: {lost}"] if lost else []
    print("\n" + "\n".join(lines))
    # The proposal keeps all objects, so images with more than max_objects do not prevent it.
    if all(issue.kind == "objects-truncated" for issue in found):
        print_proposal(config, ignore_issues)
    return not found


def print_proposal(config: CocoFolder | TfdsFolder, ignore_issues: Collection[str]) -> None:
    """Print the flags of settings that fit the training split, if the dataset has one."""
    source: SourceConfig = config
    if isinstance(config, CocoFolder):
        source = dataclasses.replace(config, ignore_issues=tuple(ignore_issues))
    try:
        train = source.open("train")
    except (FileNotFoundError, ValueError):  # no split for training, or several
        return
    if not thing_categories(train):
        print("\nno model fits: there is no category of things (isthing 1 in panoptic annotations)")
        return
    print(f"\nsettings that fit (`jaxseg train own_data --data {config.path}` has them):")
    print("\n".join(f"  {flag}" for flag in flags_of(propose(train))))
    if isinstance(train, PanopticSource):
        stuff = len(train.categories) - train.num_things
        print(f"  --model.num-stuff-classes {stuff}  (of a panoptic model)")


def flags_of(proposal: Proposal) -> list[str]:
    """Return the flags of `jaxseg train` for a proposal."""
    buckets = " ".join(f"{height} {width}" for height, width in proposal.buckets)
    sizes = []
    if proposal.max_size is not None:
        sizes = [f"--data.min-size {proposal.min_size} --data.max-size {proposal.max_size}"]
    return [
        f"--model.num-classes {proposal.num_classes}",
        f"--data.buckets {buckets}",
        *sizes,
        f"--data.max-objects {proposal.max_objects}",
        "--model.rpn.anchor-sizes " + " ".join(f"{size:g}" for size in proposal.anchor_sizes),
    ]


def format_stats(stats: DatasetStats, max_objects: int, bucket: tuple[int, int] | None) -> str:
    """Format the counts, the classes and the first issues of each kind."""
    objects = sum(stats.class_counts.values(), np.zeros(3, np.int64))
    duplicates = [ids for ids in stats.ids_by_digest.values() if len(ids) > 1]
    lines = [f"split {stats.split}", _row("images", stats.images)]
    lines += [_row("  without objects", stats.empty_images)]
    if len(stats.image_sizes):
        names = ("smallest", "median", "largest")
        for name, size in zip(names, _typical_sizes(stats.image_sizes), strict=True):
            lines.append(_row(f"  {name} height x width", size))
    lines.append(_row("  with identical pixels", sum(map(len, duplicates))))
    if duplicates:
        groups = ", ".join("=".join(map(str, ids)) for ids in duplicates[:_MAX_SHOWN])
        lines += _wrap(f"ids {groups}", indent="    ")
    lines.append(_row("objects", objects.sum()))
    lines += [_row(f"  {n}", c) for n, c in zip(("small", "medium", "large"), objects, strict=True)]
    lines.append(_row("  with empty masks", stats.empty_masks))
    lines.append(_row(f"  beyond {max_objects} per image", stats.truncated_objects))
    if bucket is not None:
        lines.append(_row(f"  below a pixel in {bucket[0]}x{bucket[1]}", stats.subpixel_objects))
    lines.append(_row("crowds", stats.crowds))
    lines.append(f"{'class':<34}{'small':>8}{'medium':>8}{'large':>8}")
    for name, counts in stats.class_counts.items():
        lines.append(f"  {name:<32}" + "".join(f"{count:>8}" for count in counts))
    if stats.semantic is not None:
        lines += _format_semantic(stats.semantic)
    return "\n".join(lines + _format_issues(stats.issues))


def _format_semantic(stats: SemanticStats) -> list[str]:
    """Format the share of the pixels that is ignored, and the classes of stuff."""
    total = max(int(stats.pixels.sum()), 1)
    ignored = f"{stats.pixels[IGNORED] / total:.1%}"
    if not stats.num_things:
        used = int((stats.images[: len(stats.names)] > 0).sum())
        return [
            _row("semantic classes", len(stats.names)),
            _row("  with pixels", used),
            _row("  pixels without a class", ignored),
        ]
    lines = [_row("pixels in no segment (void)", ignored)]
    lines.append(f"{'stuff':<34}{'images':>8}{'pixels':>8}")
    for label in range(stats.num_things, len(stats.names)):
        share = f"{stats.pixels[label] / total:.1%}"
        lines.append(f"  {stats.names[label]:<32}{stats.images[label]:>8}{share:>8}")
    return lines


def _row(name: str, value: object) -> str:
    return f"{name:<34}{value!s:>8}"


def _wrap(text: str, indent: str) -> list[str]:
    """Break a text into lines of 80 columns, except inside words such as paths."""
    return textwrap.wrap(
        text,
        width=80,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _typical_sizes(sizes: np.ndarray) -> list[str]:
    """Format the smallest, median and largest size (`[n, 2]`) by area."""
    ordered = sizes[np.argsort(sizes.astype(np.int64).prod(1), kind="stable")]
    chosen = (ordered[0], ordered[len(ordered) // 2], ordered[-1])
    return [f"{height}x{width}" for height, width in chosen]


def _format_issues(issues: Sequence[Issue]) -> list[str]:
    by_kind: dict[str, list[Issue]] = collections.defaultdict(list)
    for issue in issues:
        by_kind[issue.kind].append(issue)
    lines = ["issues: none"] if not issues else []
    for kind, found in by_kind.items():
        severity = "errors" if errors(found, ()) else "warnings"
        files = {pathlib.Path(issue.file) for issue in found}
        shared = found[0].file if len(files) == 1 else str(next(iter(files)).parent)
        lines.append(f"{severity} {kind}: {len(found)} in {shared}")
        for issue in found[:_MAX_SHOWN]:
            name = f"{pathlib.Path(issue.file).name}: " if len(files) > 1 else ""
            lines += _wrap(name + str(issue), indent="  ")
        if len(found) > _MAX_SHOWN:
            lines.append(f"  ... and {len(found) - _MAX_SHOWN} more; --out FILE lists them all")
    return lines


def format_shared_images(splits: Sequence[DatasetStats]) -> list[str]:
    """Format the number of images that each two splits have in common."""
    lines = []
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            shared = first.ids_by_digest.keys() & second.ids_by_digest.keys()
            if shared:
                lines.append(f"splits {first.split} and {second.split} share {len(shared)} images")
    return lines
