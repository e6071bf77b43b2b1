"""`jaxseg data check`: the health of a COCO-format folder or a TFDS set as text."""

import collections
import json
import pathlib
import sys
from collections.abc import Collection, Sequence

import numpy as np

from jaxseg.data.issues import Issue, check_kinds, errors
from jaxseg.data.stats import DatasetStats, scan_folder

_SHOWN = 20
"""Defects of a kind that are printed."""


def report(
    folder: pathlib.Path,
    *,
    split: str | None = None,
    max_objects: int = 100,
    bucket: tuple[int, int] | None = None,
    ignore_issues: Collection[str] = (),
    out: pathlib.Path | None = None,
) -> bool:
    """Checks a folder and prints what it finds; whether training would lose or distort nothing.

    `out` is a file for all defects, a JSON object on each line.
    """
    check_kinds(ignore_issues)
    if max_objects < 1 or (bucket is not None and min(bucket) < 1):
        raise ValueError(f"max_objects {max_objects} and bucket {bucket} must be positive")
    healths = scan_folder(
        folder, split=split, max_objects=max_objects, bucket=bucket, progress=_show_progress
    )
    issues = [issue for health in healths for issue in health.issues]
    _print("\n\n".join(format_health(health, max_objects, bucket) for health in healths))
    for line in format_shared(healths):
        _print(line)
    if out is not None:
        out.write_text("".join(json.dumps(issue._asdict()) + "\n" for issue in issues))
        print(f"\n{len(issues)} issues are listed in {out}")
    bad = errors(issues, ignore_issues)
    verdict = f"{len(bad)} defects" if bad else "nothing"
    print(
        f"\ntraining would suffer from {verdict}"
        + (" besides what is dropped" if ignore_issues else "")
    )
    return not bad


def format_health(health: DatasetStats, max_objects: int, bucket: tuple[int, int] | None) -> str:
    """The counts, the classes and the first defects of each kind."""
    objects = sum(health.classes.values(), np.zeros(3, np.int64))
    twins = [ids for ids in health.digests.values() if len(ids) > 1]
    lines = [f"split {health.split}", _row("images", health.images)]
    lines += [_row("  without objects", health.empty_images)]
    if len(health.sizes):
        for name, value in zip(
            ("smallest", "median", "largest"), _sizes(health.sizes), strict=True
        ):
            lines.append(_row(f"  {name} height x width", value))
    shown = "; ids " + ", ".join("=".join(map(str, ids)) for ids in twins[:5]) if twins else ""
    lines.append(_row("  of the same content as another", f"{sum(map(len, twins))}{shown}"))
    lines.append(_row("objects", objects.sum()))
    lines += [_row(f"  {n}", c) for n, c in zip(("small", "medium", "large"), objects, strict=True)]
    lines.append(_row("  whose masks have no pixel", health.empty_masks))
    lines.append(_row(f"  beyond {max_objects} in an image", health.lost_objects))
    if bucket is not None:
        lines.append(_row(f"  below a pixel on {bucket[0]}x{bucket[1]}", health.tiny))
    lines.append(_row("crowds", health.crowds))
    lines.append(f"{'class':<34}{'small':>8}{'medium':>8}{'large':>8}")
    for name, counts in health.classes.items():
        lines.append(f"  {name:<32}" + "".join(f"{count:>8}" for count in counts))
    return "\n".join(lines + _format_defects(health.issues))


def _row(name: str, value: object) -> str:
    return f"{name:<34}{value!s:>8}"


def _sizes(sizes: np.ndarray) -> list[str]:
    order = sizes[np.argsort(sizes.astype(np.int64).prod(1), kind="stable")]
    chosen = (order[0], order[len(order) // 2], order[-1])
    return [f"{height}x{width}" for height, width in chosen]


def _format_defects(issues: Sequence[Issue]) -> list[str]:
    by_kind: dict[str, list[Issue]] = collections.defaultdict(list)
    for issue in issues:
        by_kind[issue.kind].append(issue)
    lines = ["defects: none"] if not issues else []
    for kind, found in by_kind.items():
        tolerated = "" if errors(found, ()) else ", tolerated"
        lines.append(f"defects {kind}: {len(found)} in {found[0].file}{tolerated}")
        lines += [f"  {issue}" for issue in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  ... and {len(found) - _SHOWN} more; --out FILE lists them all")
    return lines


def format_shared(healths: Sequence[DatasetStats]) -> list[str]:
    """Which splits have images of the same content in common."""
    lines = []
    for i, first in enumerate(healths):
        for second in healths[i + 1 :]:
            shared = first.digests.keys() & second.digests.keys()
            if shared:
                lines.append(f"splits {first.split} and {second.split} share {len(shared)} images")
    return lines


def _print(text: str) -> None:
    """Names of classes and files may have characters that the terminal has not."""
    encoding = sys.stdout.encoding
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _show_progress(done: int, total: int) -> None:
    if done == total or done % max(total // 20, 1) == 0:
        end = "\n" if done == total else ""
        print(f"\rread {done} of {total} images", end=end, file=sys.stderr, flush=True)
